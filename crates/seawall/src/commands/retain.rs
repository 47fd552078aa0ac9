//! `seawall retain`: what is older than the promised window goes.

use super::{failed, print};
use operate::backup::retain::{self as keep, RetainError};
use operate::process::{self, Exit};

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall retain s3://backups/wal --window 7d --dry-run
  seawall retain /mnt/archive --window 36h --sole-uploader

What became superfluous is marked first, and deleted by a run a day later or more. Run it daily.";

pub(crate) fn retain(flags: &config::RetainFlags) -> Exit {
    let runtime = match process::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, Exit::Failed),
    };
    let outcome = match runtime.block_on(keep::retain(flags)) {
        Ok(outcome) => outcome,
        Err(error) => {
            let exit = match &error {
                RetainError::Open(open) if open.is_usage() => Exit::Usage,
                RetainError::Retention(retention) if retention.is_refusal() => Exit::Refused,
                _ => Exit::Failed,
            };
            return failed(&error, exit);
        }
    };
    if flags.json {
        print(&keep::to_json(&outcome).to_string());
        return Exit::Done;
    }
    let (marked, gone) =
        if flags.dry_run { ("superfluous", "would be deleted now") } else { ("superfluous", "deleted now") };
    print(&format!("every moment since {} stays restorable", outcome.window_begin));
    print(&format!("{marked}: {}", keep::line(&outcome.superfluous)));
    print(&format!("{gone}: {}", keep::line(&outcome.deleted)));
    for note in &outcome.superfluous.notes {
        print(note);
    }
    Exit::Done
}
