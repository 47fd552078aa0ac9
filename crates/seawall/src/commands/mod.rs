//! The subcommands, one file each: from flags to a function of `operate`, and from its outcome to text and an exit code.

mod init;
mod parts;
mod status;
mod up;

pub(crate) use init::{EXAMPLES as INIT_EXAMPLES, init};
pub(crate) use parts::{safekeeper, walproposer};
pub(crate) use status::{EXAMPLES as STATUS_EXAMPLES, status};
pub(crate) use up::{EXAMPLES as UP_EXAMPLES, UpArgs, up};

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
