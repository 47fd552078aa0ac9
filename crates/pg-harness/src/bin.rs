//! Our built programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::folder::Folder;
use crate::process::Process;

/// The path of a built program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bin(PathBuf);

/// A program that ran to its end.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Finished {
    /// Itself if the exit code is `code`, else an error with everything it said.
    pub fn expect_code(self, code: i32) -> Result<Finished> {
        let said = || format!("{}{}", self.stdout, self.stderr);
        ensure!(self.code == Some(code), "exit code {:?} instead of {code}: {}", self.code, said().trim());
        Ok(self)
    }
}

impl Bin {
    /// The program `name` in `SEAWALL_BIN_DIR` (set by `cargo xtask test`), else where `cargo build` of this workspace puts it.
    pub fn named(name: &str) -> Result<Bin> {
        let dir = match std::env::var_os("SEAWALL_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => match std::env::var_os("CARGO_TARGET_DIR") {
                Some(dir) => PathBuf::from(dir).join("debug"),
                None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug"),
            },
        };
        let path = dir.join(name);
        let path = std::fs::canonicalize(&path).with_context(|| {
            format!("{} is not built; run `cargo build -p {name}` or set SEAWALL_BIN_DIR", path.display())
        })?;
        Ok(Bin(path))
    }

    /// The program `seawall`.
    pub fn seawall() -> Result<Bin> {
        Bin::named("seawall")
    }

    /// Some other program, a system's own.
    pub fn at(path: impl Into<PathBuf>) -> Bin {
        Bin(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Starts it; its logs get `name`. Standard input stays open until the process is dropped.
    pub fn spawn<S: Into<String>>(
        &self,
        folder: &Folder,
        name: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Process> {
        Process::spawn(folder, name, self, args.into_iter().map(Into::into).collect())
    }

    /// Runs it to its end with empty standard input; its logs get `name`. A program that is late is killed.
    pub async fn run<S: Into<String>>(
        &self,
        folder: &Folder,
        name: &str,
        args: impl IntoIterator<Item = S>,
        within: Duration,
    ) -> Result<Finished> {
        let mut process = self.spawn(folder, name, args)?;
        process.close_stdin();
        let status = process.wait(within).await?;
        Ok(Finished { code: status.code(), stdout: process.output()?, stderr: process.log()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_runs_to_its_end() {
        let folder = Folder::new("bin").unwrap();
        let sh = Bin::at("/bin/sh");
        let script = "echo out; echo err >&2; cat; exit 3";
        let finished = sh.run(&folder, "sh", ["-c", script], Duration::from_secs(20)).await.unwrap();
        assert_eq!((finished.code, finished.stdout.as_str(), finished.stderr.as_str()), (Some(3), "out\n", "err\n"));
        let err = finished.expect_code(0).unwrap_err().to_string();
        assert!(err.contains("err"), "{err}");
        let late = sh.run(&folder, "late", ["-c", "sleep 60"], Duration::from_millis(50)).await;
        assert!(late.is_err());
    }
}
