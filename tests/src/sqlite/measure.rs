//! What replication costs and how far behind it is. Always beside the same without it, because ratios count.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;

/// Latencies of one run.
#[derive(Debug, Clone)]
pub struct Latencies {
    sorted: Vec<Duration>,
    took: Duration,
}

impl Latencies {
    fn new(mut all: Vec<Duration>, took: Duration) -> Latencies {
        all.sort_unstable();
        Latencies { sorted: all, took }
    }

    /// The one that `share` (0 to 1) of them do not exceed.
    pub fn at(&self, share: f64) -> Duration {
        let index = (self.sorted.len() as f64 * share) as usize;
        self.sorted.get(index.min(self.sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// How many a second.
    pub fn rate(&self) -> f64 {
        self.sorted.len() as f64 / self.took.as_secs_f64()
    }
}

/// A `seawall replicate` under measurement.
pub struct Replicating {
    child: Child,
    http: u16,
    token: Option<String>,
}

impl Drop for Replicating {
    fn drop(&mut self) {
        // It may have ended by itself, which is found out elsewhere.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

impl Replicating {
    /// Starts it with these words and waits until it answers.
    pub fn start(seawall: &Path, words: &[&str], log: &Path) -> Result<Replicating> {
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(seawall);
        command.arg("replicate").args(words).arg("--listen-http").arg(format!("127.0.0.1:{http}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("start seawall")?;
        let started = Replicating { child, http, token: None };
        let begun = Instant::now();
        while started.get("/v1/status").is_none() {
            ensure!(begun.elapsed() < Duration::from_secs(60), "it does not answer");
            sleep(Duration::from_millis(50));
        }
        Ok(started)
    }

    fn get(&self, path: &str) -> Option<String> {
        let address = ([127, 0, 0, 1], self.http).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let bearer = self.token.as_ref().map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}Connection: close\r\n\r\n").as_bytes(),
            )
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    /// Waits until every one of `count` replicas has everything.
    pub fn in_sync(&self, count: usize, within: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let status: Option<serde_json::Value> =
                self.get("/v1/status").and_then(|body| serde_json::from_str(&body).ok());
            let rows = status.as_ref().and_then(|status| status["replicas"].as_array());
            let ready = rows.map_or(0, |rows| rows.iter().filter(|row| row["in_sync"] == true).count());
            if ready >= count {
                return Ok(());
            }
            ensure!(begun.elapsed() < within, "{ready} of {count} replicas are in sync");
            sleep(Duration::from_millis(100));
        }
    }

    /// Shows this token from now on.
    pub fn show(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// All metrics, or what was answered instead.
    pub fn metrics(&self) -> String {
        self.get("/metrics").unwrap_or_default()
    }

    /// The sum of a counter.
    pub fn counter(&self, name: &str) -> f64 {
        let text = self.get("/metrics").unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    /// Resident memory, in KiB.
    pub fn rss(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// A line of the process's status, in KiB.
    pub fn memory(&self, name: &str) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Time on a processor, in clock ticks (a hundredth of a second).
    pub fn ticks(&self) -> Result<u64> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("no stat")?.1.split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    }
}

/// Makes a database of about `bytes`.
pub fn database(path: &Path, bytes: u64) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.execute_batch(
        "PRAGMA journal_mode = wal; PRAGMA synchronous = NORMAL; CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)",
    )?;
    let mut left = bytes;
    while left > 0 {
        let some = left.min(64 << 20);
        connection.execute_batch("BEGIN")?;
        for _ in 0..some.div_ceil(1 << 20) {
            connection.execute("INSERT INTO t (data) VALUES (randomblob(1048000))", [])?;
        }
        connection.execute_batch("COMMIT")?;
        left -= some;
    }
    Ok(connection)
}

/// Commits small transactions for this long, from several connections at once.
pub fn commits(path: &Path, writers: usize, seconds: f64) -> Result<Latencies> {
    let begun = Instant::now();
    let write = || -> Result<Vec<Duration>> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(30))?;
        connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        let mut all = Vec::new();
        let mut insert = connection.prepare("INSERT INTO t (data) VALUES (randomblob(400))")?;
        while begun.elapsed().as_secs_f64() < seconds {
            let started = Instant::now();
            insert.execute([])?;
            all.push(started.elapsed());
        }
        Ok(all)
    };
    let all = std::thread::scope(|scope| {
        let writing: Vec<_> = (0..writers).map(|_| scope.spawn(write)).collect();
        let mut all = Vec::new();
        for writer in writing {
            all.extend(writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??);
        }
        Ok::<_, anyhow::Error>(all)
    })?;
    Ok(Latencies::new(all, begun.elapsed()))
}

/// From commits of an idle database to the piece in the replica, a directory.
pub fn lag(connection: &Connection, replica: &Path, samples: usize) -> Result<Latencies> {
    let pieces = || -> Result<usize> {
        Ok(super::reader::generations(replica)?.iter().map(|generation| generation.pieces.len()).sum())
    };
    let begun = Instant::now();
    let mut all = Vec::new();
    for _ in 0..samples {
        // So that the last upload is longer ago than the interval between two.
        sleep(Duration::from_millis(1200));
        let before = pieces()?;
        let committed = Instant::now();
        connection.execute("INSERT INTO t (data) VALUES (randomblob(400))", [])?;
        while pieces()? == before {
            ensure!(committed.elapsed() < Duration::from_secs(30), "not uploaded within 30 s");
            sleep(Duration::from_millis(1));
        }
        all.push(committed.elapsed());
    }
    Ok(Latencies::new(all, begun.elapsed()))
}
