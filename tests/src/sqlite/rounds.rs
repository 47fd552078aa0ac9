//! Rounds of blows against a database under replication, its writers and its replicator.
//!
//! After every round the replica is restored, by the independent reader and by the product in turn, and the outcome must be a state that was committed, no older
//! than what the replicator had confirmed.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret;
use anyhow::{Context, Result, bail, ensure};
use pg_harness::Folder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::reader;
use super::writer::Ledger;

/// How long a replica may take to have everything.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(120);
/// How long a commit may take into the shadow WAL.
const COPIED_WITHIN: Duration = Duration::from_millis(2500);

/// What the rounds are made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program `seawall`.
    pub seawall: PathBuf,
    /// A program that calls [`super::write_until_killed`] when its words are `writer PATH SEED`.
    pub writer: PathBuf,
    /// One seed is one sequence of blows.
    pub seed: u64,
    /// Writers at once.
    pub writers: usize,
    /// Bytes of a page.
    pub page_size: u32,
    /// With age.
    pub encrypted: bool,
}

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself, which is found out elsewhere.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A database, its processes, and its replica.
pub struct Rounds {
    settings: Settings,
    folder: Folder,
    random: StdRng,
    identity: age::x25519::Identity,
    writers: Vec<Killed>,
    replicator: Option<Killed>,
    http: u16,
    /// Everything up to this transaction is known to be in the replica.
    confirmed: i64,
    round: u64,
    log: PathBuf,
}

/// What a round came to.
#[derive(Debug)]
pub struct Round {
    number: u64,
    blows: Vec<&'static str>,
    restored: Ledger,
    confirmed: i64,
    generations: usize,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Round { number, blows, restored, confirmed, generations } = self;
        write!(
            f,
            "round {number}: {}; restored transaction {} of {} rows, {confirmed} was confirmed, {generations} generations",
            blows.join(", "),
            restored.number,
            restored.rows
        )
    }
}

impl Rounds {
    /// Makes the database and starts everything.
    pub fn begin(folder: &Folder, settings: Settings) -> Result<Rounds> {
        let log = folder.path().join("processes.log");
        let mut rounds = Rounds {
            random: StdRng::seed_from_u64(settings.seed),
            settings,
            folder: folder.clone(),
            identity: age::x25519::Identity::generate(),
            writers: Vec::new(),
            replicator: None,
            http: TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
            confirmed: 0,
            round: 0,
            log,
        };
        Ledger::create(&rounds.database(), rounds.settings.page_size)?;
        rounds.start_replicator()?;
        for _ in 0..rounds.settings.writers {
            rounds.start_writer()?;
        }
        Ok(rounds)
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn replica(&self) -> PathBuf {
        self.folder.path().join("replica")
    }

    fn spawn(&self, command: &mut Command) -> Result<Killed> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Killed(command.spawn().with_context(|| format!("start {command:?}"))?))
    }

    fn start_writer(&mut self) -> Result<()> {
        let seed: u64 = self.random.random();
        let mut command = Command::new(&self.settings.writer);
        command.arg("writer").arg(self.database()).arg(seed.to_string());
        self.writers.push(self.spawn(&mut command)?);
        Ok(())
    }

    fn start_replicator(&mut self) -> Result<()> {
        let mut command = Command::new(&self.settings.seawall);
        command.arg("replicate").arg(self.database()).arg(self.replica());
        command.args(["--sync-interval", "100ms", "--snapshot-interval", "3s", "--retention", "6s"]);
        command.arg("--listen-http").arg(format!("127.0.0.1:{}", self.http));
        if self.settings.encrypted {
            command.arg("--recipient").arg(self.identity.to_public().to_string());
        }
        self.replicator = Some(self.spawn(&mut command)?);
        Ok(())
    }

    /// What the replicator says of itself; `None` while it does not answer.
    fn status(&self) -> Option<Value> {
        let address = ([127, 0, 0, 1], self.http).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// Waits until the replicator says that what was committed before the call is in the replica.
    pub fn confirm(&mut self) -> Result<()> {
        let ledger = Ledger::read(&self.database())?;
        // A commit is copied within a turn; the rest of this time is for a machine that is busy with other things.
        let asked = Instant::now();
        loop {
            let age = self.status().and_then(|status| status["replicas"][0]["seconds_since_confirmed"].as_f64());
            if age.is_some_and(|age| asked.elapsed().as_secs_f64() - age > COPIED_WITHIN.as_secs_f64()) {
                self.confirmed = self.confirmed.max(ledger.number);
                return Ok(());
            }
            ensure!(
                asked.elapsed() < CONFIRMED_WITHIN,
                "not confirmed within {CONFIRMED_WITHIN:?}: {:?}",
                self.status()
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// One round: blows, then a restore.
    pub fn round(&mut self) -> Result<Round> {
        self.round += 1;
        let mut blows = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            blows.push(self.blow()?);
            sleep(Duration::from_millis(self.random.random_range(0..700)));
        }
        if self.random.random_bool(0.5) {
            if self.replicator.is_none() {
                self.start_replicator()?;
            }
            self.confirm()?;
            blows.push("confirmed");
        }
        self.writers_are_well()?;
        let restored = self.restore()?;
        ensure!(
            restored.number >= self.confirmed,
            "round {}: transaction {} was restored, and {} had been confirmed",
            self.round,
            restored.number,
            self.confirmed
        );
        // What was restored was committed: nothing is ahead of the database.
        let live = Ledger::read(&self.database())?;
        ensure!(
            restored.number <= live.number,
            "transaction {} was restored, and the last is {}",
            restored.number,
            live.number
        );
        let generations = reader::generations(&self.replica())?.len();
        Ok(Round { number: self.round, blows, restored, confirmed: self.confirmed, generations })
    }

    fn blow(&mut self) -> Result<&'static str> {
        Ok(match self.random.random_range(0..7) {
            0 => {
                self.replicator = None;
                self.start_replicator()?;
                "replicator killed"
            }
            1 => {
                self.replicator = None;
                sleep(Duration::from_millis(self.random.random_range(0..1500)));
                self.start_replicator()?;
                "replicator down while the writers write"
            }
            2 => {
                let victim = self.random.random_range(0..self.writers.len());
                drop(self.writers.swap_remove(victim));
                self.start_writer()?;
                "writer killed"
            }
            3 => {
                let count = self.writers.len();
                self.writers.clear();
                self.replicator = None;
                for _ in 0..count {
                    self.start_writer()?;
                }
                self.start_replicator()?;
                "everything killed"
            }
            4 => {
                let count = self.writers.len();
                self.writers.clear();
                sleep(Duration::from_millis(300));
                for _ in 0..count {
                    self.start_writer()?;
                }
                "no writer for a while"
            }
            _ => {
                sleep(Duration::from_millis(500));
                "peace"
            }
        })
    }

    fn writers_are_well(&mut self) -> Result<()> {
        for Killed(writer) in &mut self.writers {
            if let Some(status) = writer.try_wait()? {
                bail!("a writer has ended by itself, {status}: the database is damaged for it");
            }
        }
        Ok(())
    }

    /// Restores what is in the replica now, while everything runs, and checks it. A retention that deletes what the reader has listed
    /// is tried again.
    fn restore(&self) -> Result<Ledger> {
        let mut tries = 0;
        let began = Instant::now();
        loop {
            tries += 1;
            let output = self.folder.path().join(format!("restored-{}-{tries}.db", self.round));
            // By the independent reader and by the product in turn.
            let found = match self.round % 2 {
                0 => self.restore_by_seawall(&output),
                _ => {
                    let identity = self.settings.encrypted.then_some(&self.identity);
                    reader::restore(&self.replica(), identity, &output)
                }
            };
            match found {
                Ok(()) => {
                    let ledger = Ledger::check(&output).with_context(|| format!("{} is wrong", output.display()))?;
                    std::fs::remove_file(&output)?;
                    return Ok(ledger);
                }
                Err(error) if is_gone(&error) && began.elapsed() < CONFIRMED_WITHIN => {
                    sleep(Duration::from_millis(100))
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn restore_by_seawall(&self, output: &Path) -> Result<()> {
        if reader::generations(&self.replica())?.iter().all(|generation| generation.snapshots.is_empty()) {
            bail!("no snapshot yet");
        }
        let mut command = Command::new(&self.settings.seawall);
        command.arg("restore").arg(self.replica()).arg("--output").arg(output);
        if self.settings.encrypted {
            let keys = self.folder.path().join("identity");
            std::fs::write(&keys, self.identity.to_string().expose_secret())?;
            command.arg("--identity").arg(keys);
        }
        let done = command.stdin(Stdio::null()).output()?;
        ensure!(done.status.success(), "seawall restore: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }

    /// Stops the replicator in order: it ends with 0, and the replica has everything.
    pub fn end(mut self) -> Result<Ledger> {
        self.writers.clear();
        let Some(mut replicator) = self.replicator.take() else { bail!("the replicator is not running") };
        let pid = replicator.0.id().to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success(), "kill -TERM");
        let stopped = Instant::now();
        let status = loop {
            match replicator.0.try_wait()? {
                Some(status) => break status,
                None if stopped.elapsed() > CONFIRMED_WITHIN => bail!("it does not stop"),
                None => sleep(Duration::from_millis(20)),
            }
        };
        ensure!(status.success(), "it stopped with {status}");
        let (live, restored) = (Ledger::check(&self.database())?, self.restore()?);
        ensure!(live == restored, "after a stop in order {restored:?} is restored of {live:?}");
        Ok(live)
    }

    /// The end of what the processes said.
    pub fn said(&self) -> String {
        tail(&self.log)
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Whether a file that was listed is gone, or no generation has a snapshot (yet).
fn is_gone(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    let gone = io.is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    gone || error.to_string().starts_with("no snapshot")
}
