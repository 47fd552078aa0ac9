//! `seawall`: what operators type. Flags, log, exit code; the rest is in `operate`.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Keeps the write-ahead log of your database safe
#[derive(Parser)]
#[command(version, after_help = "Start here:\n  seawall up")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything here: three safekeepers, a proposer, and a throw-away PostgreSQL unless you name yours
    #[command(after_help = commands::UP_EXAMPLES)]
    Up(commands::UpArgs),
    /// Show whether your clusters are protected, and if not, why and what to do (exit code 0 only if all are)
    #[command(after_help = commands::STATUS_EXAMPLES)]
    Status(config::StatusFlags),
    /// Begin a cluster on its safekeepers
    #[command(after_help = commands::INIT_EXAMPLES)]
    Init(config::InitFlags),
    /// Show and change who belongs to a cluster
    #[command(after_help = commands::MEMBERS_EXAMPLES)]
    Members(config::MembersFlags),
    /// Take a snapshot of a cluster into its archive, now
    #[command(after_help = commands::BACKUP_EXAMPLES)]
    Backup(Box<config::BackupFlags>),
    /// Delete from an archive what is older than a promised window
    #[command(after_help = commands::RETAIN_EXAMPLES)]
    Retain(config::RetainFlags),
    /// Keep SQLite databases in replicas
    #[command(after_help = commands::REPLICATE_EXAMPLES)]
    Replicate(Box<config::ReplicateFlags>),
    /// List the SQLite databases of a configuration and their replicas
    #[command(after_help = commands::DATABASES_EXAMPLES)]
    Databases(config::DatabasesFlags),
    /// Print a configuration of Litestream as one of Seawall
    #[command(after_help = commands::IMPORT_EXAMPLES)]
    Import(config::ImportFlags),
    /// Bring a database back from its replica
    #[command(after_help = commands::RESTORE_EXAMPLES)]
    Restore(Box<config::RestoreFlags>),
    /// Restore a replica to a scratch place and prove that everything in it is sound
    #[command(after_help = commands::VALIDATE_EXAMPLES)]
    Validate(config::ValidateFlags),
    /// List what a replica holds, and the window that can be restored
    #[command(after_help = commands::GENERATIONS_EXAMPLES)]
    Generations(config::ListFlags),
    /// List a replica's snapshots
    #[command(after_help = commands::SNAPSHOTS_EXAMPLES)]
    Snapshots(config::ListFlags),
    /// List a replica's pieces of WAL
    #[command(after_help = commands::WAL_EXAMPLES)]
    Wal(config::ListFlags),
    /// Give a server in recovery one file of WAL (restore_command)
    #[command(after_help = commands::WAL_FETCH_EXAMPLES)]
    WalFetch(config::WalFetchFlags),
    /// Archive one file of WAL (archive_command)
    #[command(after_help = commands::WAL_PUSH_EXAMPLES)]
    WalPush(config::WalPushFlags),
    /// Complete the quorum's log and shut out whoever led it, until a server promoted from all of it comes
    #[command(after_help = commands::FENCE_EXAMPLES)]
    Fence(config::FenceFlags),
    /// Make a standby fit for promotion: fence the quorum, let the standby have all of its log, check that it has
    #[command(after_help = commands::PRE_PROMOTE_EXAMPLES)]
    PrePromote(config::PrePromoteFlags),
    /// Let a primary go on whose replication slot was lost, after comparing all WAL there is
    #[command(after_help = commands::ADOPT_EXAMPLES)]
    Adopt(config::AdoptFlags),
    /// Bring what a server that is down will show after its recovery onto the quorum, before it starts
    #[command(after_help = commands::PRE_START_EXAMPLES)]
    PreStart(config::PreStartFlags),
    /// End an era of a cluster and begin the next: after pg_upgrade, pg_resetwal, or the loss of a majority or of the slot
    #[command(after_help = commands::REBASE_EXAMPLES)]
    Rebase(config::RebaseFlags),
    /// Break the glass: let commits through that wait for a quorum that is away, unprotected; and the way back
    #[command(after_help = commands::RELEASE_EXAMPLES)]
    Release(config::ReleaseFlags),
    /// Make a token for a standby, a part or a person
    #[command(after_help = commands::TOKEN_EXAMPLES)]
    Token(config::TokenFlags),
    /// Run a safekeeper; the same as the program safekeeper
    #[command(after_help = "Example:\n  seawall safekeeper --id 1 --data-dir /var/lib/seawall")]
    Safekeeper(config::SafekeeperFlags),
    /// Run a proposer; the same as the program walproposer
    #[command(
        after_help = "Example:\n  seawall walproposer --primary 'host=db1 user=seawall' --safekeepers sk1:5454,sk2:5454,sk3:5454"
    )]
    Walproposer(commands::WalproposerArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(args) => commands::up(args),
        Command::Status(flags) => commands::status(flags),
        Command::Init(flags) => commands::init(flags),
        Command::Members(flags) => commands::members(flags),
        Command::Backup(flags) => commands::backup(&flags),
        Command::Retain(flags) => commands::retain(&flags),
        Command::Replicate(flags) => return commands::replicate(*flags),
        Command::Databases(flags) => commands::databases(&flags),
        Command::Import(flags) => commands::import(&flags),
        Command::Restore(flags) => commands::restore(*flags),
        Command::Validate(flags) => commands::validate(&flags),
        Command::Generations(flags) => commands::generations(&flags),
        Command::Snapshots(flags) => commands::snapshots(&flags),
        Command::Wal(flags) => commands::wal(&flags),
        Command::WalFetch(flags) => return commands::wal_fetch(&flags),
        Command::WalPush(flags) => commands::wal_push(&flags),
        Command::Fence(flags) => commands::fence(flags),
        Command::PrePromote(flags) => commands::pre_promote(flags),
        Command::Adopt(flags) => commands::adopt(flags),
        Command::PreStart(flags) => commands::pre_start(flags),
        Command::Rebase(flags) => commands::rebase(flags),
        Command::Release(flags) => commands::release(flags),
        Command::Token(flags) => commands::token(&flags),
        Command::Safekeeper(flags) => commands::safekeeper(flags),
        Command::Walproposer(flags) => commands::walproposer(flags),
    };
    outcome.into()
}
