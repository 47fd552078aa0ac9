//! `seawall backup`: a snapshot of a cluster, now.

use super::{failed, print};
use operate::backup::{self, Step, TakeError};
use operate::process::{self, Exit};
use operate::restore::progress::{Display, size};
use std::io::{self, Write};

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall backup --primary 'host=db1 user=seawall' --replica s3://backups/wal
  seawall backup --primary 'host=standby1 user=seawall' --replica /mnt/archive --max-rate 51200 --json";

pub(crate) fn backup(flags: &config::BackupFlags) -> Exit {
    let mut display = None;
    let mut waits = false;
    let say = |step: Step| match step {
        Step::Begun { facts, counter } if !flags.json => {
            display = Some(Display::start("backed up", facts.estimated_bytes, move || counter.get()));
        }
        Step::AwaitsWal { needed, reached } if !flags.json && !waits => {
            display = None;
            waits = true;
            // If nobody reads standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "stored; waiting until its WAL is archived up to {needed} (now {reached})");
        }
        _ => {}
    };
    let outcome = match process::runtime() {
        Ok(runtime) => runtime.block_on(backup::take(flags, true, say)),
        Err(error) => return failed(&error, Exit::Failed),
    };
    drop(display);
    match outcome {
        Ok(taken) if flags.json => print(&taken.to_json().to_string()),
        Ok(taken) => {
            let snapshot = &taken.snapshot;
            let (bytes, seconds) = (size(snapshot.bytes), taken.elapsed.as_secs_f64());
            print(&format!(
                "snapshot {} of generation {}: {} files, {bytes}, {seconds:.1} s",
                snapshot.begin.lsn, taken.generation, snapshot.files
            ));
            for page in &snapshot.damaged_pages {
                print(&format!("damaged: block {} of {}", page.block, page.path));
            }
        }
        Err(error) => {
            let exit = match &error {
                TakeError::Place(place) if place.is_usage() => Exit::Usage,
                TakeError::ConnInfo(_) => Exit::Usage,
                error if error.is_refusal() => Exit::Refused,
                _ => Exit::Failed,
            };
            return failed(&error, exit);
        }
    }
    Exit::Done
}
