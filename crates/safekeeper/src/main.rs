//! `safekeeper`: stores WAL and votes. Flags, log, exit code; the rest is in `node`.

use clap::Parser;
use operate::process::{self, Exit};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  safekeeper --id 1 --data-dir /var/lib/seawall
  safekeeper --id 2 --data-dir /srv/sk --listen-pg 10.0.0.2:5454 --insecure-no-auth
  safekeeper --config /etc/seawall.toml";

/// Stores the write-ahead log of PostgreSQL clusters and votes on who may write it
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    flags: config::SafekeeperFlags,
}

fn main() -> ExitCode {
    let options = match Cli::parse().flags.resolve(&|name| std::env::var(name).ok()) {
        Ok(options) => options,
        Err(error) => {
            process::complain(&error);
            return Exit::Usage.into();
        }
    };
    process::log_to_stderr(options.common.log_format);
    match process::safekeeper(&options) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            process::complain(&error);
            error.exit().into()
        }
    }
}
