//! `seawall safekeeper` and `seawall walproposer`: the parts, as the programs of these names.

use super::{env, failed};
use operate::process::{self, Exit};

pub(crate) fn safekeeper(flags: config::SafekeeperFlags) -> Exit {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    process::log_to_stderr(options.common.log_format);
    ended(process::safekeeper(&options))
}

/// A proposer, or the one thing that needs none.
#[derive(clap::Args)]
pub(crate) struct WalproposerArgs {
    #[command(flatten)]
    flags: config::ProposerFlags,
    /// Complete the quorum's log on a majority without a primary, print where it ends, and leave
    #[arg(long)]
    sync: bool,
}

pub(crate) fn walproposer(args: WalproposerArgs) -> Exit {
    let WalproposerArgs { flags, sync } = args;
    if sync {
        return super::sync(flags);
    }
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    process::log_to_stderr(options.common.log_format);
    ended(process::walproposer(&options))
}

fn ended(outcome: Result<(), process::Error>) -> Exit {
    match outcome {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error, error.exit()),
    }
}
