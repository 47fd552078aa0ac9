//! `postmaster.pid`, and a postmaster left over from an earlier run.
//!
//! The file has one fact a line: process id, data directory, start time, port, socket folder, address, shared memory key, status.
//! After a crash it stays behind, and its process id may by then belong to anybody: nothing is signalled before the process has
//! shown that it is a postgres working in that data directory.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const FILE_BYTES_MAX: u64 = 64 * 1024;
/// How long a fast shutdown may take before it becomes an immediate one.
const KIND_WITHIN: Duration = Duration::from_secs(10);

/// What of `postmaster.pid` matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: u32,
    /// It accepts connections, as a primary or as a standby.
    pub(crate) ready: bool,
}

impl PidFile {
    /// The file in `data_dir`; `None` if there is none, or none that can be read.
    pub(crate) fn read(data_dir: &Path) -> Option<PidFile> {
        let path = data_dir.join("postmaster.pid");
        if fs::metadata(&path).ok()?.len() > FILE_BYTES_MAX {
            return None;
        }
        PidFile::parse(&fs::read_to_string(&path).ok()?)
    }

    fn parse(text: &str) -> Option<PidFile> {
        let mut lines = text.lines();
        // A stand-alone backend writes its process id negated; it is nobody's server.
        let pid = lines.next()?.trim().parse().ok()?;
        let status = lines.nth(6).unwrap_or_default().trim();
        Some(PidFile { pid, ready: matches!(status, "ready" | "standby") })
    }
}

/// Why a leftover postmaster was not stopped.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// It could not be signalled.
    #[error(
        "postgres process {pid} from an earlier run still uses the data directory and cannot be stopped: {source}; stop it by hand"
    )]
    Signal {
        /// The process.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
    /// It did not go.
    #[error("postgres process {pid} from an earlier run did not stop in time; stop it by hand (kill -QUIT {pid})")]
    TimedOut {
        /// The process.
        pid: u32,
    },
}

/// Stops a postmaster that an earlier run left in `data_dir`: a fast shutdown, after ten seconds an immediate one. Returns its
/// process id, or `None` if there was none. A process that is not a postgres of this directory is left alone.
pub fn stop_survivor(data_dir: &Path, timeout: Duration) -> Result<Option<u32>, SurvivorError> {
    let survivor = PidFile::read(data_dir).map(|file| file.pid).filter(|pid| is_postgres_of(*pid, data_dir));
    let Some((pid, unix_pid)) = survivor.and_then(|pid| Some((pid, Pid::from_raw(i32::try_from(pid).ok()?)?))) else {
        return Ok(None);
    };
    let signal = |signal| match kill_process(unix_pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(err) => Err(SurvivorError::Signal { pid, source: err.into() }),
    };
    signal(Signal::INT)?;
    let start = Instant::now();
    let mut kind = true;
    while is_postgres_of(pid, data_dir) {
        if start.elapsed() >= timeout {
            return Err(SurvivorError::TimedOut { pid });
        }
        if kind && start.elapsed() >= KIND_WITHIN.min(timeout / 2) {
            kind = false;
            signal(Signal::QUIT)?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(Some(pid))
}

/// Whether `pid` is a living postgres whose working directory is `data_dir` (a postmaster goes there at start).
fn is_postgres_of(pid: u32, data_dir: &Path) -> bool {
    if fs::exists("/proc/self/stat").unwrap_or(false) {
        let process = Path::new("/proc").join(pid.to_string());
        let exe = fs::read_link(process.join("exe")).unwrap_or_default();
        // An upgraded program shows as "postgres (deleted)".
        let named = exe
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.split(' ').next() == Some("postgres"));
        let same_dir = match (fs::canonicalize(process.join("cwd")), fs::canonicalize(data_dir)) {
            (Ok(cwd), Ok(dir)) => cwd == dir,
            _ => false,
        };
        return named && same_dir;
    }
    let output = Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output();
    output.is_ok_and(|output| {
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        line.contains("postgres") && line.contains(&*data_dir.to_string_lossy())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_decides_readiness() {
        let text = |status: &str| format!("4711\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n  1 2\n{status}\n");
        for (status, ready) in [("ready   ", true), ("standby ", true), ("starting", false), ("stopping", false)] {
            assert_eq!(PidFile::parse(&text(status)), Some(PidFile { pid: 4711, ready }), "{status}");
        }
        assert_eq!(PidFile::parse("4711\n"), Some(PidFile { pid: 4711, ready: false }));
        for broken in ["", "-4711\n", "x\n", "99999999999\n"] {
            assert_eq!(PidFile::parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_stale_file_with_somebody_elses_process_id_harms_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n", other.id())).unwrap();
        assert!(stop_survivor(dir.path(), Duration::from_secs(1)).unwrap().is_none());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
