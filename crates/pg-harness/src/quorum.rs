//! Safekeepers and proposers as processes.
//!
//! A safekeeper's first start takes free ports and tells them in its ready line; every later start of it asks for the same ports,
//! because addresses stand in the members' record.

use std::fs;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bin::{Bin, Finished};
use crate::folder::Folder;
use crate::http::get_json;
use crate::process::Process;
use crate::wait::wait_for;

const READY_WITHIN: Duration = Duration::from_secs(30);
const INIT_WITHIN: Duration = Duration::from_secs(60);

/// How a quorum is started.
#[derive(Debug, Clone)]
pub struct QuorumBuilder {
    folder: Folder,
    bin: Option<Bin>,
    own_bins: Vec<(u64, Bin)>,
    safekeepers: u64,
    args: Vec<String>,
}

impl QuorumBuilder {
    /// How many; 3 unless said.
    pub fn safekeepers(mut self, count: u64) -> Self {
        self.safekeepers = count;
        self
    }

    /// One more argument for each safekeeper, such as `--max-wal=64MiB`.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Another program than the `seawall` that was built: an older release, say.
    pub fn bin(mut self, bin: Bin) -> Self {
        self.bin = Some(bin);
        self
    }

    /// Another program for one safekeeper: on a disk of its own, with a clock of its own.
    pub fn bin_of(mut self, id: u64, bin: Bin) -> Self {
        self.own_bins.push((id, bin));
        self
    }

    /// Starts the safekeepers and waits until all are ready.
    pub async fn start(self) -> Result<Quorum> {
        let bin = self.bin.map_or_else(Bin::seawall, Ok)?;
        let mut nodes = Vec::new();
        for id in 1..=self.safekeepers {
            let own = self.own_bins.iter().find(|(of, _)| *of == id).map_or(&bin, |(_, bin)| bin);
            nodes.push(Safekeeper::spawn(&self.folder, own, id, &self.args)?);
        }
        for node in &mut nodes {
            node.become_ready().await?;
        }
        Ok(Quorum { folder: self.folder, bin, nodes, proposers: 0, inits: 0 })
    }
}

/// Safekeepers of one test.
#[derive(Debug)]
pub struct Quorum {
    folder: Folder,
    bin: Bin,
    nodes: Vec<Safekeeper>,
    proposers: u32,
    inits: u32,
}

impl Quorum {
    /// Three safekeepers with nothing special.
    pub fn builder(folder: &Folder) -> QuorumBuilder {
        QuorumBuilder { folder: folder.clone(), bin: None, own_bins: Vec::new(), safekeepers: 3, args: Vec::new() }
    }

    /// The program `seawall`.
    pub fn bin(&self) -> &Bin {
        &self.bin
    }

    /// All safekeepers, by id.
    pub fn nodes(&self) -> &[Safekeeper] {
        &self.nodes
    }

    /// The safekeeper with this id; ids begin at 1.
    pub fn node(&mut self, id: u64) -> Result<&mut Safekeeper> {
        self.nodes.iter_mut().find(|node| node.id == id).with_context(|| format!("there is no safekeeper {id}"))
    }

    /// Their addresses as `--safekeepers` takes them.
    pub fn addresses(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.pg.to_string()).collect();
        addresses.join(",")
    }

    /// Starts one more safekeeper, which belongs to no cluster yet, and waits until it is ready.
    pub async fn add(&mut self, id: u64) -> Result<()> {
        anyhow::ensure!(self.nodes.iter().all(|node| node.id != id), "there is a safekeeper {id} already");
        let mut node = Safekeeper::spawn(&self.folder, &self.bin, id, &[])?;
        node.become_ready().await?;
        self.nodes.push(node);
        Ok(())
    }

    /// Hands a safekeeper out: it is none of this quorum any more, and goes on as it is.
    pub fn take(&mut self, id: u64) -> Result<Safekeeper> {
        let at = self.nodes.iter().position(|node| node.id == id);
        Ok(self.nodes.remove(at.with_context(|| format!("there is no safekeeper {id}"))?))
    }

    /// Runs `seawall init`, whatever its exit code.
    pub async fn try_init(&mut self, name: &str, primary: Option<&str>) -> Result<Finished> {
        self.inits += 1;
        let log = format!("init-{}", self.inits);
        let addresses = self.addresses();
        let mut args = vec!["init", "--cluster", name, "--safekeepers", &addresses];
        if let Some(primary) = primary {
            args.extend(["--primary", primary]);
        }
        self.bin.run(&self.folder, &log, args, INIT_WITHIN).await
    }

    /// Makes the cluster `name`.
    pub async fn init(&mut self, name: &str, primary: Option<&str>) -> Result<()> {
        self.try_init(name, primary).await?.expect_code(0)?;
        Ok(())
    }

    /// Starts a proposer for the cluster `name` beside a primary and waits until it is ready.
    pub async fn proposer(&mut self, name: &str, primary: &str) -> Result<Proposer> {
        let addresses = self.addresses();
        self.proposer_via(name, primary, &addresses).await
    }

    /// The same with other addresses of the safekeepers, as `--safekeepers` takes them: through forwarders, say.
    pub async fn proposer_via(&mut self, name: &str, primary: &str, addresses: &str) -> Result<Proposer> {
        self.proposer_with(name, primary, addresses, &[]).await
    }

    /// The same with more flags.
    pub async fn proposer_with(
        &mut self,
        name: &str,
        primary: &str,
        addresses: &str,
        more: &[&str],
    ) -> Result<Proposer> {
        self.proposers += 1;
        let args = ["walproposer", "--primary", primary, "--safekeepers", addresses, "--cluster", name];
        let rest = ["--listen-http", "127.0.0.1:0", "--exit-on-stdin-eof"];
        let log = format!("proposer-{}", self.proposers);
        let args = args.into_iter().chain(rest).chain(more.iter().copied());
        let process = self.bin.spawn(&self.folder, &log, args)?;
        let mut proposer = Proposer { process, http: SocketAddr::from(([127, 0, 0, 1], 0)) };
        proposer.become_ready().await?;
        Ok(proposer)
    }

    /// Waits until `reached` says yes to the status of every running safekeeper, in order of their ids.
    pub async fn wait_until(
        &mut self,
        what: &str,
        within: Duration,
        mut reached: impl FnMut(&[Value]) -> bool,
    ) -> Result<()> {
        wait_for(what, within, async || {
            let mut statuses = Vec::new();
            for node in &mut self.nodes {
                if node.process.is_running()? {
                    statuses.push(node.status().await?);
                }
            }
            Ok(reached(&statuses).then_some(()))
        })
        .await
    }
}

/// One safekeeper. Everything of [`Process`] can be done to it.
#[derive(Debug)]
pub struct Safekeeper {
    id: u64,
    data_dir: PathBuf,
    extra_args: Vec<String>,
    process: Process,
    pg: SocketAddr,
    http: SocketAddr,
}

impl Safekeeper {
    fn spawn(folder: &Folder, bin: &Bin, id: u64, extra_args: &[String]) -> Result<Safekeeper> {
        let data_dir = folder.sub(&format!("sk{id}"))?;
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let args = safekeeper_args(id, &data_dir, anywhere, anywhere, extra_args);
        let process = bin.spawn(folder, &format!("safekeeper-{id}"), args)?;
        Ok(Safekeeper { id, data_dir, extra_args: extra_args.to_vec(), process, pg: anywhere, http: anywhere })
    }

    async fn become_ready(&mut self) -> Result<()> {
        let ready = self.process.ready(READY_WITHIN).await?;
        self.pg = ready.pg.context("the ready line of a safekeeper has no pg")?;
        self.http = ready.http.context("the ready line of a safekeeper has no http")?;
        self.process.set_args(safekeeper_args(self.id, &self.data_dir, self.pg, self.http, &self.extra_args));
        Ok(())
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &PathBuf {
        &self.data_dir
    }

    /// Where it speaks PostgreSQL's protocol.
    pub fn pg(&self) -> SocketAddr {
        self.pg
    }

    /// How a client of PostgreSQL's replication protocol connects to it.
    pub fn conninfo(&self, cluster: &str) -> String {
        format!("host={} port={} user=seawall options='-c cluster={cluster}'", self.pg.ip(), self.pg.port())
    }

    /// Where it speaks HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<Value> {
        Ok(get_json(self.http, "/v1/status").await?.1)
    }

    /// Starts it again on its ports after it was killed, and waits until it is ready.
    pub async fn revive(&mut self) -> Result<()> {
        self.process.start()?;
        self.become_ready().await
    }

    /// Empties the data directory of a safekeeper that is down: a replaced disk.
    pub fn wipe(&mut self) -> Result<()> {
        anyhow::ensure!(!self.process.is_running()?, "safekeeper {} still runs", self.id);
        fs::remove_dir_all(&self.data_dir)?;
        Ok(fs::create_dir(&self.data_dir)?)
    }
}

fn safekeeper_args(
    id: u64,
    data_dir: &std::path::Path,
    pg: SocketAddr,
    http: SocketAddr,
    extra: &[String],
) -> Vec<String> {
    let mut args = vec!["safekeeper".to_owned(), "--id".to_owned(), id.to_string()];
    args.extend(["--data-dir".to_owned(), data_dir.display().to_string()]);
    args.extend(["--listen-pg".to_owned(), pg.to_string(), "--listen-http".to_owned(), http.to_string()]);
    args.push("--exit-on-stdin-eof".to_owned());
    args.extend(extra.iter().cloned());
    args
}

/// One proposer. Everything of [`Process`] can be done to it.
#[derive(Debug)]
pub struct Proposer {
    process: Process,
    http: SocketAddr,
}

impl Proposer {
    async fn become_ready(&mut self) -> Result<()> {
        self.http = self.process.ready(READY_WITHIN).await?.http.context("the ready line of a proposer has no http")?;
        Ok(())
    }

    /// Where it speaks HTTP; a revived one has another port.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<Value> {
        Ok(get_json(self.http, "/v1/status").await?.1)
    }

    /// Starts it again after it was killed, and waits until it is ready.
    pub async fn revive(&mut self) -> Result<()> {
        self.process.start()?;
        self.become_ready().await
    }

    /// Waits until `reached` says yes to its status.
    pub async fn wait_until(
        &self,
        what: &str,
        within: Duration,
        mut reached: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        wait_for(what, within, async || {
            let status = self.status().await?;
            Ok(reached(&status).then_some(status))
        })
        .await
    }

    /// Waits until it answers `/v1/ready` with 200: what the primary had at attach is committed.
    pub async fn wait_ready(&self, within: Duration) -> Result<()> {
        wait_for("a ready proposer", within, async || {
            Ok((get_json(self.http, "/v1/ready").await?.0 == 200).then_some(()))
        })
        .await
    }
}

impl Deref for Safekeeper {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Safekeeper {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Deref for Proposer {
    type Target = Process;
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Proposer {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Says what a part says, does nothing, and ends with its standard input.
    const FAKE: &str = r#"#!/bin/sh
part=$1
case "$*" in *--exit-on-stdin-eof*) ;; init*) echo "$*"; exit 3 ;; *) exit 2 ;; esac
while [ $# -gt 0 ]; do
  case $1 in --id) id=$2 ;; --listen-pg) pg=$2 ;; esac
  shift
done
case $pg in *:0) pg=127.0.0.1:$((1000 + id)) ;; esac
case $part in
  safekeeper) echo "{\"ready\":{\"pg\":\"$pg\",\"http\":\"127.0.0.1:1\",\"pid\":$$}}" ;;
  walproposer) echo "{\"ready\":{\"http\":\"127.0.0.1:2\",\"pid\":$$}}" ;;
esac
cat
"#;

    #[tokio::test]
    async fn parts_are_started_told_apart_and_keep_their_ports() {
        let folder = Folder::new("quorum").unwrap();
        let path = folder.path().join("seawall");
        let draft = folder.path().join("draft");
        fs::write(&draft, FAKE).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        // Copied by another process: a file this one has just written may still be open in a child another test forks, and is then
        // too busy to be run.
        assert!(std::process::Command::new("cp").arg(&draft).arg(&path).status().unwrap().success());
        let mut quorum = Quorum::builder(&folder).bin(Bin::at(path)).arg("--max-wal=1MiB").start().await.unwrap();
        assert_eq!(quorum.addresses(), "127.0.0.1:1001,127.0.0.1:1002,127.0.0.1:1003");
        assert!(quorum.node(4).is_err());

        let node = quorum.node(2).unwrap();
        assert!(node.wipe().is_err(), "it runs");
        node.kill().unwrap();
        node.wipe().unwrap();
        node.revive().await.unwrap();
        assert!(node.args().iter().any(|arg| arg == "127.0.0.1:1002"), "{:?}", node.args());
        assert!(node.args().iter().any(|arg| arg == "--max-wal=1MiB"));

        let refused = quorum.try_init("main", None).await.unwrap().expect_code(3).unwrap();
        assert_eq!(refused.stdout.trim(), format!("init --cluster main --safekeepers {}", quorum.addresses()));
        assert!(quorum.init("main", Some("host=x")).await.is_err());

        let mut proposer = quorum.proposer("main", "host=x").await.unwrap();
        assert_eq!(proposer.http().port(), 2);
        proposer.close_stdin();
        assert!(proposer.wait(READY_WITHIN).await.unwrap().success());
        proposer.revive().await.unwrap();
    }
}
