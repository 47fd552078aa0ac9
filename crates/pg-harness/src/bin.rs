//! Our built programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::folder::Folder;
use crate::process::Process;

/// A built program: its path, what runs it, and what is added to its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bin {
    path: PathBuf,
    through: Vec<String>,
    env: Vec<(String, String)>,
}

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
        Ok(Bin::at(path))
    }

    /// The program `seawall`.
    pub fn seawall() -> Result<Bin> {
        Bin::named("seawall")
    }

    /// Some other program, a system's own.
    pub fn at(path: impl Into<PathBuf>) -> Bin {
        Bin { path: path.into(), through: Vec::new(), env: Vec::new() }
    }

    /// The same program with one more environment variable; a later one of the same name counts.
    pub fn env(mut self, name: &str, value: &str) -> Bin {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same program with more environment variables.
    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Bin {
        self.env.extend(variables);
        self
    }

    /// The same program run by another one, which gets these arguments and then the program's path and its arguments: `nsenter`,
    /// `prlimit`. That one must replace itself by the program, so that signals reach it.
    pub fn through<S: Into<String>>(mut self, program: impl IntoIterator<Item = S>) -> Bin {
        self.through = program.into_iter().map(Into::into).chain(self.through).collect();
        self
    }

    /// Whether its bytes contain a text: what it was built with.
    pub fn contains(&self, text: &str) -> Result<bool> {
        // A debug build has hundreds of MiB, and a test's own loop is not made for them.
        let found = Command::new("grep").args(["--quiet", "--text", "--fixed-strings", text]).arg(&self.path).status();
        Ok(found.context("run grep")?.success())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = match self.through.split_first() {
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(&self.path);
                command
            }
            None => Command::new(&self.path),
        };
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
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
        let named = sh.clone().env("NAME", "a").env("NAME", "b");
        let told = named.run(&folder, "env", ["-c", "echo $NAME"], Duration::from_secs(20)).await.unwrap();
        assert_eq!(told.stdout, "b\n");
        let through = sh.clone().through(["env", "NAME=c"]);
        let told = through.run(&folder, "through", ["-c", "echo $NAME"], Duration::from_secs(20)).await.unwrap();
        assert_eq!(told.stdout, "c\n");
        assert!(sh.contains("ELF").unwrap() && !sh.contains("no such text in a shell").unwrap());
        let late = sh.run(&folder, "late", ["-c", "sleep 60"], Duration::from_millis(50)).await;
        assert!(late.is_err());
    }
}
