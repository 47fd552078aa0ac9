//! The subcommands, one file each: from flags to a function of `operate`, and from its outcome to text and an exit code.

mod backup;
mod databases;
mod failover;
mod import;
mod init;
mod list;
mod members;
mod parts;
mod replicate;
mod restore;
mod retain;
mod status;
mod token;
mod up;
mod validate;
mod wal_fetch;
mod wal_push;

pub(crate) use backup::{EXAMPLES as BACKUP_EXAMPLES, backup};
pub(crate) use databases::{EXAMPLES as DATABASES_EXAMPLES, databases};
pub(crate) use failover::{
    ADOPT_EXAMPLES, FENCE_EXAMPLES, PRE_PROMOTE_EXAMPLES, PRE_START_EXAMPLES, REBASE_EXAMPLES, RELEASE_EXAMPLES, adopt,
    fence, pre_promote, pre_start, rebase, release, sync,
};
pub(crate) use import::{EXAMPLES as IMPORT_EXAMPLES, import};
pub(crate) use init::{EXAMPLES as INIT_EXAMPLES, init};
pub(crate) use list::{GENERATIONS_EXAMPLES, SNAPSHOTS_EXAMPLES, WAL_EXAMPLES, generations, snapshots, wal};
pub(crate) use members::{EXAMPLES as MEMBERS_EXAMPLES, members};
pub(crate) use parts::{WalproposerArgs, safekeeper, walproposer};
pub(crate) use replicate::{EXAMPLES as REPLICATE_EXAMPLES, replicate};
pub(crate) use restore::{EXAMPLES as RESTORE_EXAMPLES, restore};
pub(crate) use retain::{EXAMPLES as RETAIN_EXAMPLES, retain};
pub(crate) use status::{EXAMPLES as STATUS_EXAMPLES, status};
pub(crate) use token::{EXAMPLES as TOKEN_EXAMPLES, token};
pub(crate) use up::{EXAMPLES as UP_EXAMPLES, UpArgs, up};
pub(crate) use validate::{EXAMPLES as VALIDATE_EXAMPLES, validate};
pub(crate) use wal_fetch::{EXAMPLES as WAL_FETCH_EXAMPLES, wal_fetch};
pub(crate) use wal_push::{EXAMPLES as WAL_PUSH_EXAMPLES, wal_push};

use operate::process::{self, Exit};
use std::io::{self, Write};

/// A variable of the environment.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Says what went wrong and how that ends the process.
fn failed(error: &(dyn std::error::Error + 'static), exit: Exit) -> Exit {
    process::complain(error);
    exit
}

fn print(text: &str) {
    let mut stdout = io::stdout();
    // A reader that went away (`| head`) is no failure.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}
