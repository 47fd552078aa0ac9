//! `seawall up`: everything on one machine.

use super::{failed, print};
use operate::process::{self, Exit};
use operate::up as run;
use std::io;
use std::sync::Arc;

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall up
  seawall up --primary 'host=/run/postgresql user=postgres' --configure
  PG_BIN=/usr/lib/postgresql/17/bin seawall up --data-dir /srv/try";

/// The flags of `up` that are not in a file.
#[derive(clap::Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    flags: config::UpFlags,
    /// With --primary: set synchronous_standby_names on it (ALTER SYSTEM), and take that back on a clean stop
    #[arg(long, requires = "primary")]
    configure: bool,
}

pub(crate) fn up(args: UpArgs) -> Exit {
    let options = match args.flags.resolve() {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    process::log_to_stderr(options.common.log_format);
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(&error, Exit::Failed),
    };
    let setup = run::Setup { program, configure: args.configure, say: Arc::new(print) };
    let outcome = process::runtime().map(|runtime| {
        runtime.block_on(async {
            let stop = process::stop_requested(false)?;
            Ok::<_, io::Error>(run::up(&options, &setup, stop).await)
        })
    });
    match outcome {
        Ok(Ok(Ok(()))) => Exit::Done,
        Ok(Ok(Err(error))) if error.is_usage() => failed(&error, Exit::Usage),
        Ok(Ok(Err(error))) => failed(&error, if error.is_refusal() { Exit::Refused } else { Exit::Failed }),
        Ok(Err(error)) | Err(error) => failed(&error, Exit::Failed),
    }
}
