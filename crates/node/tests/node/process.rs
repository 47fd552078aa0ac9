//! A safekeeper as a process of its own: this test binary, started again with one ignored test that runs the node.

use crate::client::Client;
use lsn::NodeId;
use node::NodeOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use tempfile::TempDir;

const VARIABLE: &str = "SAFEKEEPER_UNDER_TEST";

/// How a safekeeper is started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) id: u64,
    pub(crate) dir: PathBuf,
    pub(crate) max_wal: u64,
    pub(crate) max_slot_wal: u64,
    pub(crate) min_wal: u64,
    /// A directory that is the archive.
    pub(crate) archive: Option<PathBuf>,
    pub(crate) min_free: u64,
    pub(crate) foreign: bool,
    pub(crate) listen: &'static str,
    /// Whether tokens are asked for, signed by a key of the folder beside the data directory, `<dir>.keys`.
    pub(crate) asks_for_tokens: bool,
}

impl Setup {
    pub(crate) fn new(id: u64, dir: &Path) -> Setup {
        Setup {
            id,
            dir: dir.to_owned(),
            max_wal: 1 << 30,
            max_slot_wal: 1 << 30,
            min_wal: 1 << 30,
            archive: None,
            min_free: 0,
            foreign: false,
            listen: "127.0.0.1:0",
            asks_for_tokens: false,
        }
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> Node {
        self.try_start().unwrap()
    }

    /// Starts it; the sentence with which it refused to run is the error.
    pub(crate) fn try_start(&self) -> Result<Node, String> {
        let Setup { id, dir, max_wal, max_slot_wal, min_wal, archive, min_free, foreign, listen, .. } = self;
        let tokens = self.asks_for_tokens;
        let archive = archive.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
        let limits =
            format!("{max_wal}\n{foreign}\n{listen}\n{max_slot_wal}\n{tokens}\n{min_free}\n{min_wal}\n{archive}");
        let told = format!("{id}\n{}\n{limits}", dir.display());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::a_safekeeper_process", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Node { child, said, pg: unknown, http: unknown, setup: self.clone() };
        loop {
            let mut line = String::new();
            assert!(node.said.read_line(&mut line).unwrap() > 0, "the safekeeper ended without a word");
            if let Some((_, sentence)) = line.split_once("@failed ") {
                return Err(sentence.trim().to_owned());
            }
            if let Some((_, pg)) = line.split_once("@ready ") {
                let (pg, http) = pg.trim().split_once(' ').unwrap();
                (node.pg, node.http) = (pg.parse().unwrap(), http.parse().unwrap());
                return Ok(node);
            }
        }
    }
}

/// A running safekeeper, killed when dropped.
pub(crate) struct Node {
    child: Child,
    /// Kept open, so that it may go on printing.
    said: BufReader<ChildStdout>,
    pub(crate) pg: SocketAddr,
    pub(crate) http: SocketAddr,
    setup: Setup,
}

impl Node {
    /// One in a directory of its own.
    pub(crate) fn fresh() -> (Node, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Setup::new(1, dir.path()).start(), dir)
    }

    /// One that lets foreign proposers create clusters.
    pub(crate) fn foreign() -> (Node, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup { foreign: true, ..Setup::new(1, dir.path()) };
        (setup.start(), dir)
    }

    /// A connection that chose nothing.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.pg, "")
    }

    /// Its data directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.setup.dir
    }

    /// Its disk id, as it announces it.
    pub(crate) fn disk(&self) -> String {
        self.client().parameters["seawall_disk_id"].clone()
    }

    /// A clean stop: its standard input ends.
    pub(crate) fn stop(mut self) -> (ExitStatus, Setup) {
        drop(self.child.stdin.take());
        (self.child.wait().unwrap(), self.setup.clone())
    }

    /// kill -9.
    pub(crate) fn kill(mut self) -> Setup {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.setup.clone()
    }

    /// Bytes of memory it holds.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have been ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process that other tests start; does nothing by itself.
#[test]
fn a_safekeeper_process() {
    let Ok(told) = std::env::var(VARIABLE) else { return };
    let told: Vec<&str> = told.split('\n').collect();
    let keys = (told[6] == "true").then(|| PathBuf::from(told[1]).with_extension("keys"));
    let options = NodeOptions {
        id: NodeId(told[0].parse().unwrap()),
        data_dir: PathBuf::from(told[1]),
        listen_pg: told[4].to_owned(),
        listen_http: "127.0.0.1:0".to_owned(),
        max_wal: told[2].parse().unwrap(),
        max_slot_wal: told[5].parse().unwrap(),
        min_wal: told[8].parse().unwrap(),
        min_free: told[7].parse().unwrap(),
        call_back_hosts: vec!["127.0.0.1".to_owned()],
        peers: Vec::new(),
        allow_foreign_creation: told[3].parse().unwrap(),
        archive: node::ArchiveOptions {
            url: (!told[9].is_empty()).then(|| told[9].to_owned()),
            ..node::ArchiveOptions::default()
        },
        auth: auth::GateOptions { keys, ..auth::GateOptions::default() },
        outgoing: auth::Outgoing::default(),
    };
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let shutdown = async { drop(end.await) };
    let result = runtime.block_on(node::run(options, shutdown, |ready| {
        say(&format!("@ready {} {}", ready.pg, ready.http));
    }));
    if let Err(error) = result {
        say(&format!("@failed {error}"));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}
