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

pub(crate) fn walproposer(flags: config::ProposerFlags) -> Exit {
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
