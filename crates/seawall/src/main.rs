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
    /// Run a safekeeper; the same as the program safekeeper
    #[command(after_help = "Example:\n  seawall safekeeper --id 1 --data-dir /var/lib/seawall")]
    Safekeeper(config::SafekeeperFlags),
    /// Run a proposer; the same as the program walproposer
    #[command(
        after_help = "Example:\n  seawall walproposer --primary 'host=db1 user=seawall' --safekeepers sk1:5454,sk2:5454,sk3:5454"
    )]
    Walproposer(config::ProposerFlags),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(args) => commands::up(args),
        Command::Status(flags) => commands::status(flags),
        Command::Init(flags) => commands::init(flags),
        Command::Safekeeper(flags) => commands::safekeeper(flags),
        Command::Walproposer(flags) => commands::walproposer(flags),
    };
    outcome.into()
}
