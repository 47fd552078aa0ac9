//! `seawall up` as a value: everything of it from one process, known by `up.json`.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_server::{FindOptions, Installation};
use serde_json::Value;
use tokio_postgres::Client;

use crate::bin::Bin;
use crate::folder::Folder;
use crate::http::get_json;
use crate::postgres::connect;
use crate::process::Process;
use crate::wait::wait_for;

/// For what a killed `up` leaves behind.
const SURVIVOR_ENDS_WITHIN: Duration = Duration::from_secs(20);

/// A running `seawall up`. Everything of [`Process`] can be done to it. When it is dropped nothing of it stays, not even the
/// PostgreSQL that survives a killed `up`.
#[derive(Debug)]
pub struct Up {
    process: Process,
    data_dir: PathBuf,
    // Last, so that the folder outlives the processes.
    folder: Folder,
}

/// One child of `up`, as `up.json` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpPart {
    /// `safekeeper 1`, `proposer`, `postgres`.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

impl Up {
    /// Starts it with a data directory `data` in the folder and these arguments besides.
    pub fn start<S: Into<String>>(folder: &Folder, args: impl IntoIterator<Item = S>) -> Result<Up> {
        let data_dir = folder.path().join("data");
        let common = ["up".to_owned(), "--data-dir".to_owned(), data_dir.display().to_string()];
        let args: Vec<String> = common.into_iter().chain(args.into_iter().map(Into::into)).collect();
        let process = Bin::seawall()?.spawn(folder, "up", args)?;
        Ok(Up { process, data_dir, folder: folder.clone() })
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// `up.json` as it is now; an error while there is none.
    pub fn file(&self) -> Result<Value> {
        let path = self.data_dir.join("up.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is {text:?}", path.display()))
    }

    /// How to connect to PostgreSQL.
    pub fn conninfo(&self) -> Result<String> {
        Ok(self.file()?["primary"].as_str().context("up.json has no primary")?.to_owned())
    }

    /// A new session on its PostgreSQL.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.conninfo()?).await
    }

    /// The HTTP address of the proposer, then of each safekeeper.
    pub fn https(&self) -> Result<Vec<SocketAddr>> {
        let file = self.file()?;
        let safekeepers = file["safekeepers"].as_array().context("up.json has no safekeepers")?;
        let all = std::iter::once(&file["http"]).chain(safekeepers.iter().map(|safekeeper| &safekeeper["http"]));
        all.map(|http| Ok(http.as_str().context("up.json lacks an http address")?.parse()?)).collect()
    }

    /// The processes in `up.json`; one that is being started again is missing.
    pub fn parts(&self) -> Result<Vec<UpPart>> {
        let file = self.file()?;
        let safekeepers = file["safekeepers"].as_array().context("up.json has no safekeepers")?;
        let named =
            safekeepers.iter().map(|safekeeper| (format!("safekeeper {}", safekeeper["id"]), &safekeeper["pid"]));
        let rest = ["proposer", "postgres"].map(|name| (name.to_owned(), &file[format!("{name}_pid")]));
        let pid = |pid: &Value| pid.as_u64().and_then(|pid| u32::try_from(pid).ok());
        Ok(named.chain(rest).filter_map(|(name, value)| Some(UpPart { name, pid: pid(value)? })).collect())
    }

    /// The process of the part of this name.
    pub fn part(&self, name: &str) -> Result<u32> {
        let part = self.parts()?.into_iter().find(|part| part.name == name);
        Ok(part.with_context(|| format!("up.json has no process of {name}"))?.pid)
    }

    /// kill -9 of one part. Its end may be noticed a little later.
    pub fn kill_part(&self, name: &str) -> Result<u32> {
        let pid = self.part(name)?;
        let target = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
        rustix::process::kill_process(target, rustix::process::Signal::KILL).with_context(|| format!("kill {name}"))?;
        Ok(pid)
    }

    /// One of PostgreSQL's own programs, from where `up` finds its server.
    pub fn postgres_program(name: &str) -> Result<Bin> {
        Ok(Bin::at(Installation::find(&FindOptions::from_env())?.bin_dir().join(name)))
    }

    /// Waits until it says `text` on standard output and returns the line. An end before that is an error at once.
    pub async fn says(&mut self, text: &str, within: Duration) -> Result<String> {
        self.process.wait_for_output(text, within).await
    }

    /// Waits until `up.json` is there and its proposer says protected.
    pub async fn protected(&mut self, within: Duration) -> Result<Value> {
        wait_for("PROTECTED by seawall up", within, async || {
            ensure!(self.process.is_running()?, "it ended: {}", self.process.log()?.trim());
            let proposer = self.https()?[0];
            let status = get_json(proposer, "/v1/status").await?.1;
            ensure!(status["protected"] == true, "the proposer is {}: {}", status["state"], status["reasons"]);
            Ok(Some(status))
        })
        .await
    }

    /// Waits until a part runs under another process id than `before`.
    pub async fn started_again(&self, name: &str, before: u32, within: Duration) -> Result<u32> {
        wait_for(&format!("{name} started again"), within, async || {
            Ok(Some(self.part(name)?).filter(|pid| *pid != before))
        })
        .await
    }

    /// Whether a process lives; a zombie does not.
    pub fn lives(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// Where the throw-away server keeps its data, if there is one.
    fn postgres_dir(&self) -> PathBuf {
        let kept = std::fs::read_to_string(self.data_dir.join("kept.json")).unwrap_or_default();
        let kept: Value = serde_json::from_str(&kept).unwrap_or_default();
        kept["postgres_dir"].as_str().map_or_else(|| self.data_dir.join("postgres"), PathBuf::from)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let parts = self.parts().unwrap_or_default();
        let killed = self.process.kill().is_ok();
        // The other parts end with the pipe; this one does not know us.
        let stopped = pg_server::stop_survivor(&self.postgres_dir(), SURVIVOR_ENDS_WITHIN).is_ok();
        let deadline = Instant::now() + SURVIVOR_ENDS_WITHIN;
        let are_gone = || parts.iter().all(|part| !Up::lives(part.pid));
        while !are_gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !killed || !stopped || !are_gone() {
            self.folder.keep();
        }
    }
}

impl Deref for Up {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Up {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
