//! `seawall restore`: a database back from its replica.

use super::{failed, print};
use operate::process::{self, Exit};
use operate::restore::progress::size;
use operate::restore::run::{self, Outcome};
use serde_json::json;

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall restore s3://backups/wal --output /srv/pg --dry-run
  seawall restore s3://backups/wal --output /srv/pg --safekeepers sk1:5454,sk2:5454,sk3:5454 --start
  seawall restore /mnt/archive --output /srv/pg --to-time 2024-05-01T12:00:00Z
  seawall restore s3://backups/app --output app.db";

pub(crate) fn restore(flags: config::RestoreFlags) -> Exit {
    process::log_to_stderr(config::LogFormat::Human);
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(&error, Exit::Failed),
    };
    let say = |text: &str| print(text);
    let outcome = match process::runtime().map(|runtime| runtime.block_on(run::run(&flags, &program, &say))) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => return failed(&error, error.exit()),
        Err(error) => return failed(&error, Exit::Failed),
    };
    match flags.json {
        true => print(&json!(outcome).to_string()),
        false => print(&told(&outcome)),
    }
    Exit::Done
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Planned { plan } => plan.text(),
        Outcome::PlannedSqlite { plan } => plan.text(),
        Outcome::RestoredSqlite { file, bytes, .. } => format!("restored {} to {}", size(*bytes), file.display()),
        Outcome::Nothing { reason } => format!("nothing done: {reason}"),
        Outcome::Restored { directory, neutralised, files, bytes, server, plan, .. } => {
            let mut text = format!("restored {files} files ({}) to {}", size(*bytes), directory.display());
            for note in &plan.notes {
                text.push_str(&format!("\nnote: {note}"));
            }
            for taken in neutralised {
                text.push_str(&format!("\nnot inherited: {} = '{}'", taken.name, taken.was));
            }
            match server {
                Some(server) => {
                    text.push_str(&format!("\nthe server has recovered and listens on 127.0.0.1:{}", server.port));
                }
                None => text.push_str("\nstart PostgreSQL on it: it recovers to the target and then takes writes"),
            }
            text
        }
    }
}
