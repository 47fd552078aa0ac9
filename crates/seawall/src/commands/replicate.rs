//! `seawall replicate`: SQLite databases kept in replicas.

use super::{env, failed};
use operate::process::{self, Exit};
use operate::sqlite::run;
use std::io;
use std::process::ExitCode;

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall replicate app.db s3://backups/app
  seawall replicate app.db /mnt/backup/app --once
  seawall replicate app.db s3://backups/app --exec './server --port 8080'
  seawall replicate --config /etc/seawall.toml --listen-http 127.0.0.1:7676
  seawall replicate app.db s3://backups/app --listen-http 10.0.0.5:7676 --auth-keys keys.pem --tls-cert c.pem --tls-key k.pem";

/// Databases looked at at once. One that waits for a lock holds a thread, within its busy time-out; each thread costs memory.
const BLOCKING_THREADS: usize = 16;

/// Ends with 0 only if everything is in every replica; with --exec with the command's code, if that ended by itself with another.
pub(crate) fn replicate(flags: config::ReplicateFlags) -> ExitCode {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage).into(),
    };
    process::log_to_stderr(options.log_format);
    let outcome = process::runtime_blocking_on(BLOCKING_THREADS).map(|runtime| {
        let outcome = runtime.block_on(async {
            let stop = process::stop_requested(false)?;
            // Listened for only once it is awaited, which is after the first.
            let again = async || match process::stop_requested(false) {
                Ok(again) => again.await,
                Err(_) => std::future::pending().await,
            };
            Ok::<_, io::Error>(run::run(&options, stop, again).await)
        });
        // What a second signal has cut short is not waited for.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(Ok(Ok(outcome))) => {
            for missing in &outcome.missing {
                process::complain(&io::Error::other(missing.clone()));
            }
            match (outcome.child, outcome.missing.is_empty()) {
                (Some(code), _) if code != 0 => ExitCode::from(code),
                (_, true) => Exit::Done.into(),
                (_, false) => Exit::Failed.into(),
            }
        }
        Ok(Ok(Err(error))) => failed(&error, error.exit()).into(),
        Ok(Err(error)) | Err(error) => failed(&error, Exit::Failed).into(),
    }
}
