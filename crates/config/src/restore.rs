//! The flags of what reads replicas: `restore`, `wal-fetch`, `wal-push`, `validate` and the listing commands.
//!
//! None of them has a section in the file: they are typed by a person, or stand in `restore_command` and `archive_command`, and say
//! everything themselves. Keys of an object store come from the environment, so that no secret stands on a command line.

use std::path::PathBuf;

use lsn::{Lsn, SystemId};

use crate::values::{Address, ClusterName};

/// Which replica below a URL, and how its objects are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ReplicaFlags {
    /// A file with age identities (AGE-SECRET-KEY-1…), for an encrypted replica; may be given several times
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// The system identifier, if the archive holds several clusters
    #[arg(long, value_name = "NUMBER")]
    pub system_id: Option<SystemId>,
    /// The era, if not the newest one
    #[arg(long, value_name = "ERA")]
    pub era: Option<String>,
}

/// The quorum behind an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct QuorumFlags {
    /// The safekeepers: what they hold above the archive is read too
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub safekeepers: Vec<Address>,
    /// The cluster's name on the safekeepers, if they keep several
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
}

/// The flags of `seawall restore`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct RestoreFlags {
    /// The replica: s3://bucket/path, gs://…, az://…, or a directory
    #[arg(value_name = "REPLICA")]
    pub replica: String,
    /// The new data directory (PostgreSQL) or database file (SQLite)
    #[arg(long, short, value_name = "PATH", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// To this moment: every transaction committed at or before it (2024-05-01T12:00:00Z)
    #[arg(long, value_name = "TIME", group = "target")]
    pub to_time: Option<String>,
    /// To this position: everything that ends at or below it
    #[arg(long, value_name = "LSN", group = "target")]
    pub to_lsn: Option<Lsn>,
    /// To the newest restore point of this name
    #[arg(long, value_name = "NAME", group = "target")]
    pub to_name: Option<String>,
    /// To the commit of this transaction
    #[arg(long, value_name = "XID", group = "target")]
    pub to_xid: Option<u32>,
    /// SQLite: to the end of this WAL index (hexadecimal)
    #[arg(long, value_name = "HEX", group = "target")]
    pub index: Option<String>,
    /// The generation to follow (16 hexadecimal digits) [default: the newest]
    #[arg(long, value_name = "GENERATION")]
    pub generation: Option<String>,
    /// Objects fetched at once
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallelism: u16,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the command")]
    pub source: ReplicaFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the command")]
    pub quorum: QuorumFlags,
    /// Be content with what the archive holds, though the safekeepers may hold more
    #[arg(long)]
    pub archive_only: bool,
    /// Put a tablespace elsewhere than where it was; may be given several times
    #[arg(long, value_name = "OID=DIR", value_parser = tablespace_mapping)]
    pub tablespace_mapping: Vec<(u32, PathBuf)>,
    /// What the server does when recovery has reached the target: promote, pause or shutdown
    #[arg(long, value_name = "ACTION", default_value = "promote", value_parser = ["promote", "pause", "shutdown"])]
    pub target_action: String,
    /// Lose what is in the output directory
    #[arg(long)]
    pub overwrite: bool,
    /// Start the restored server and wait until it has recovered; it goes on running
    #[arg(long)]
    pub start: bool,
    /// With --start: the port on 127.0.0.1
    #[arg(long, value_name = "PORT", default_value_t = 5432)]
    pub port: u16,
    /// With --start: the folder with PostgreSQL's programs, if it is not found by itself
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// SQLite: check the restored database: none, quick or full
    #[arg(long, value_name = "KIND", default_value = "none", value_parser = ["none", "quick", "full"])]
    pub integrity_check: String,
    /// Do nothing, with success, if there is no such replica
    #[arg(long)]
    pub if_replica_exists: bool,
    /// Do nothing, with success, if the output is there already
    #[arg(long)]
    pub if_db_not_exists: bool,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print plan and outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// `16400=/new/place`.
fn tablespace_mapping(text: &str) -> Result<(u32, PathBuf), String> {
    let parts = text.split_once('=').and_then(|(oid, path)| Some((oid.parse().ok()?, PathBuf::from(path))));
    parts
        .filter(|(oid, path)| *oid != 0 && path.is_absolute())
        .ok_or_else(|| "expected the tablespace's oid, =, and an absolute path, like 16400=/new/place".to_owned())
}

/// The flags of `seawall wal-fetch`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct WalFetchFlags {
    /// The file's name (%f)
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Where it goes (%p); the current directory is the data directory
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// The orders that `seawall restore` wrote
    #[arg(long, value_name = "FILE", required_unless_present = "replica")]
    pub recovery: Option<PathBuf>,
    /// The archive, where there are no orders: a standby's
    #[arg(long, value_name = "URL", conflicts_with = "recovery")]
    pub replica: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the command")]
    pub source: ReplicaFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the command")]
    pub quorum: QuorumFlags,
    /// The generation to follow, if the archive holds several of one TLI
    #[arg(long, value_name = "GENERATION")]
    pub generation: Option<String>,
    /// Bytes of WAL fetched ahead, in MiB; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub prefetch: u32,
    /// Fetch ahead of NAME and nothing else: what wal-fetch starts by itself
    #[arg(long, hide = true)]
    pub ahead: bool,
}

/// The flags of `seawall wal-push`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct WalPushFlags {
    /// The file (%p); the current directory is the data directory
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Its name (%f)
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The archive
    #[arg(long, value_name = "URL")]
    pub replica: String,
    /// The safekeepers, where a quorum archives: then nothing is uploaded here, and the file counts once it is archived
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub safekeepers: Vec<Address>,
    /// The cluster's name on the safekeepers, if they keep several
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<ClusterName>,
    /// The era, where no quorum archives
    #[arg(long, value_name = "ERA", default_value = "solo-1")]
    pub era: String,
    /// Encrypt for this age recipient (age1…); may be given several times
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// Files uploaded at once, those that PostgreSQL has marked ready beside this one included
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub parallelism: u16,
}

/// The flags of `seawall generations`, `snapshots` and `wal`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct ListFlags {
    /// The replica: s3://bucket/path, gs://…, az://…, or a directory
    #[arg(value_name = "REPLICA")]
    pub replica: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the command")]
    pub source: ReplicaFlags,
    /// Only this generation
    #[arg(long, value_name = "GENERATION")]
    pub generation: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// The flags of `seawall validate`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct ValidateFlags {
    /// The replica: s3://bucket/path, gs://…, az://…, or a directory
    #[arg(value_name = "REPLICA")]
    pub replica: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the command")]
    pub source: ReplicaFlags,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the command")]
    pub quorum: QuorumFlags,
    /// The generation to follow [default: the newest]
    #[arg(long, value_name = "GENERATION")]
    pub generation: Option<String>,
    /// Where it is restored to and removed again; room for the whole database [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Objects fetched at once
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallelism: u16,
    /// The superuser who reads the restored database
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    pub user: String,
    /// Do not start a server: files and WAL only
    #[arg(long)]
    pub no_start: bool,
    /// The folder with PostgreSQL's programs, if it is not found by itself
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Restore {
        #[command(flatten)]
        flags: RestoreFlags,
    }

    fn restore(args: &[&str]) -> Result<RestoreFlags, clap::Error> {
        Restore::try_parse_from([&["restore"], args].concat()).map(|restore| restore.flags)
    }

    #[test]
    fn one_target_at_most_and_somewhere_to_put_it() {
        assert!(restore(&["s3://b/p", "--dry-run"]).is_ok());
        assert!(restore(&["s3://b/p"]).is_err());
        let flags = restore(&["/a", "-o", "/d", "--to-lsn", "0/16B3748", "--safekeepers", "a:1,b:2"]).unwrap();
        assert_eq!((flags.to_lsn, flags.quorum.safekeepers.len()), (Some(Lsn(0x16B_3748)), 2));
        assert!(restore(&["/a", "-o", "/d", "--to-lsn", "0/1", "--to-xid", "7"]).is_err());
        assert!(restore(&["/a", "-o", "/d", "--parallelism", "0"]).is_err());
    }

    #[test]
    fn tablespaces_go_to_absolute_places() {
        assert_eq!(tablespace_mapping("16400=/x=y"), Ok((16400, PathBuf::from("/x=y"))));
        for bad in ["", "16400", "0=/x", "a=/x", "1=x", "1="] {
            assert!(tablespace_mapping(bad).is_err(), "{bad}");
        }
    }
}
