//! The command beside the replication.

use rustix::process::{Pid, Signal, kill_process};
use std::process::ExitStatus;
use tokio::process::{Child, Command};

/// Why the command cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Its words.
    #[error("--exec {0:?} is no command line: {1}")]
    Words(String, String),
    /// The system.
    #[error("cannot run {0}")]
    Start(String, #[source] std::io::Error),
}

/// Starts a command line, split as a shell splits words; nothing else of a shell is done.
pub(super) fn start(line: &str) -> Result<Child, ChildError> {
    let refused = |why: String| ChildError::Words(line.to_owned(), why);
    let words = shell_words::split(line).map_err(|error| refused(error.to_string()))?;
    let (program, args) = words.split_first().ok_or_else(|| refused("it is empty".to_owned()))?;
    Command::new(program).args(args).spawn().map_err(|source| ChildError::Start(program.clone(), source))
}

/// Passes on that we are to stop.
pub(super) fn ask_to_stop(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // A child that is gone already is waited for next.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// The exit code of a shell for it: of a child that was killed, 128 and the signal.
pub(super) fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_words_its_code_and_its_end() {
        let mut child = start("sh -c 'exit 7'").unwrap();
        assert_eq!(code(child.wait().await.unwrap()), 7);
        let mut child = start("sleep 60").unwrap();
        ask_to_stop(&child);
        assert_eq!(code(child.wait().await.unwrap()), 143);
        assert!(start("'").is_err());
        assert!(start("").is_err());
        assert!(start("/no/such/program").is_err());
    }
}
