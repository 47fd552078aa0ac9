//! `walproposer`: the process beside a primary that drives the quorum. Flags, log, exit code; the rest is in `proposer`.

use clap::Parser;
use operate::process::{self, Exit};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  walproposer --primary 'host=/run/postgresql user=seawall' --safekeepers sk1:5454,sk2:5454,sk3:5454
  walproposer --config /etc/seawall.toml --cluster orders

The primary needs a role with LOGIN, REPLICATION and pg_monitor, and synchronous_standby_names = 'FIRST 1 (seawall)'.";

/// Streams the write-ahead log of one PostgreSQL primary to a quorum of safekeepers
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    flags: config::ProposerFlags,
    /// Complete the quorum's log on a majority without a primary, print where it ends, and leave
    #[arg(long)]
    sync: bool,
}

fn main() -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    let Cli { flags, sync } = Cli::parse();
    if sync {
        return match flags.resolve_sync(&env) {
            Ok(options) => process::sync(&options).into(),
            Err(error) => {
                process::complain(&error);
                Exit::Usage.into()
            }
        };
    }
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => {
            process::complain(&error);
            return Exit::Usage.into();
        }
    };
    process::log_to_stderr(options.common.log_format);
    match process::walproposer(&options) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            process::complain(&error);
            error.exit().into()
        }
    }
}
