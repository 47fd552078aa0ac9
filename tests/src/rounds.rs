//! [`Rounds`]: clients commit while one part after the other is killed or hangs, and each time everything they did and saw must fit
//! into one order, with nothing acknowledged missing.
//!
//! One seed, one sequence of victims. What happens in between is up to the machine: the same seed is the same plan, not the same run.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Checked, Folder, Forwarder, History, Process, Proposer, Way};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use crate::logs::Logs;
use crate::stage::{CLUSTER, SOON, Stage, write_wal};

const CLIENTS: u64 = 6;
/// More than the segments of two checkpoints, so that parts also die while segments begin and end.
const BULK_MIB: usize = 48;
/// More than a proposer remembers for a safekeeper that is away: it must learn from its peers.
const AWAY_MIB: usize = 96;

/// Who can be hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Safekeeper(u64),
    Proposer,
    /// A second proposer for the same primary: it waits, and takes over when the first is gone.
    Rival,
    Primary,
}

const EVERYTHING: [Part; 6] =
    [Part::Safekeeper(1), Part::Safekeeper(2), Part::Safekeeper(3), Part::Proposer, Part::Rival, Part::Primary];

/// Which ways are cut.
const CUTS: [&[Way]; 3] = [&[Way::ToTarget], &[Way::ToClient], &[Way::ToTarget, Way::ToClient]];

/// What happens to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// kill -9 and a start.
    Kill,
    /// kill -9, a start, and kill -9 while it recovers.
    KillTwice,
    /// kill -9 of a safekeeper, much WAL, a start, and kill -9 while it learns.
    Away,
    /// SIGSTOP, and SIGCONT after a while; a primary is killed.
    Hang(Duration),
    /// Between the proposers and safekeepers nothing arrives for a while, one way or both, and nobody is told.
    Cut(&'static [Way], Duration),
    /// The connections between the proposers and safekeepers are reset.
    Reset,
}

/// A stage under load and the plan of its crashes.
#[derive(Debug)]
pub struct Rounds {
    // Stopped before the stage is taken down.
    history: History,
    rival: Proposer,
    stage: Stage,
    /// The proposers' ways to the safekeepers, in the order of their ids.
    network: Vec<Forwarder>,
    folder: Folder,
    logs: Logs,
    chance: StdRng,
    deck: Vec<Vec<Part>>,
    round: u32,
    blows: u32,
}

/// What one round did; its text is one line.
#[derive(Debug)]
pub struct Round {
    number: u32,
    victims: Vec<Part>,
    blow: Blow,
    bulk: bool,
    recovered: Duration,
    checked: Checked,
    equal_to: u64,
}

/// What all rounds came to; its text is one line.
#[derive(Debug)]
pub struct Outcome {
    rounds: u32,
    blows: u32,
    checked: Checked,
}

impl Rounds {
    /// Sets the stage and starts the clients.
    pub async fn begin(folder: &Folder, seed: u64) -> Result<Rounds> {
        let mut stage = Stage::set(folder).await?;
        let mut network = Vec::new();
        for node in stage.quorum.nodes() {
            network.push(Forwarder::to(node.pg().port()).await?);
        }
        let ways: Vec<String> = network.iter().map(|way| format!("127.0.0.1:{}", way.port())).collect();
        let (ways, conninfo) = (ways.join(","), stage.postgres.conninfo());
        stage.proposer.kill()?;
        stage.proposer = stage.quorum.proposer_with(CLUSTER, &conninfo, &ways, &[]).await?;
        let rival = stage.quorum.proposer_with(CLUSTER, &conninfo, &ways, &[]).await?;
        let history = stage.history(CLIENTS).await?;
        Ok(Rounds {
            history,
            rival,
            stage,
            network,
            folder: folder.clone(),
            logs: Logs::new(),
            chance: StdRng::seed_from_u64(seed),
            deck: Vec::new(),
            round: 0,
            blows: 0,
        })
    }

    /// Hits who is next in the plan, helps them up again, and checks everything.
    pub async fn round(&mut self) -> Result<Round> {
        let victims = self.draw();
        let lone_safekeeper = matches!(victims[..], [Part::Safekeeper(_)]);
        let safekeepers_only = victims.iter().all(|part| matches!(part, Part::Safekeeper(_)));
        let blow = match self.chance.random_range(0..8) {
            0 | 1 => Blow::Hang(Duration::from_millis(self.chance.random_range(0..3000))),
            // Whoever dies while it recovers must recover all the same.
            2 | 3 => Blow::KillTwice,
            4 if lone_safekeeper => Blow::Away,
            5 if safekeepers_only => Blow::Reset,
            6 | 7 if safekeepers_only => {
                // Some last longer than a session without a message.
                let longest = if self.chance.random_bool(0.2) { 12_000 } else { 3_000 };
                let time = Duration::from_millis(self.chance.random_range(0..longest));
                Blow::Cut(CUTS.choose(&mut self.chance).copied().unwrap_or_default(), time)
            }
            _ => Blow::Kill,
        };
        let bulk = self.chance.random_bool(0.4);
        self.round_with(victims, blow, bulk).await
    }

    /// A last round in which everything is killed, and `pg_waldump` over what is left.
    pub async fn end(mut self) -> Result<(Round, Outcome)> {
        let mut everything = EVERYTHING.to_vec();
        everything.shuffle(&mut self.chance);
        let round = self.round_with(everything, Blow::Kill, true).await?;
        self.history.stop().await?;
        let checked = self.history.check(&self.stage.client().await?).await?;
        self.stage.all_have_everything().await?;
        self.logs.compare(&self.stage).await?;
        Logs::new().compare(&self.stage).await.context("all bytes from the first one on")?;
        self.logs.dump(&self.stage, &self.folder).await?;
        Ok((round, Outcome { rounds: self.round, blows: self.blows, checked }))
    }

    /// Every kind of victim comes once before one comes again.
    fn draw(&mut self) -> Vec<Part> {
        if self.deck.is_empty() {
            self.deck = EVERYTHING.iter().map(|part| vec![*part]).collect();
            let safekeeper = Part::Safekeeper(self.chance.random_range(1..=3));
            let other = Part::Safekeeper(self.chance.random_range(1..=3));
            self.deck.push(vec![safekeeper, Part::Proposer]);
            self.deck.push(vec![safekeeper, Part::Primary]);
            self.deck.push(vec![Part::Proposer, Part::Primary]);
            self.deck.push(vec![Part::Proposer, Part::Rival]);
            if other != safekeeper {
                self.deck.push(vec![other, safekeeper]);
            }
            self.deck.push(EVERYTHING.to_vec());
            self.deck.shuffle(&mut self.chance);
        }
        let mut victims = self.deck.pop().unwrap_or_default();
        victims.shuffle(&mut self.chance);
        victims
    }

    async fn round_with(&mut self, victims: Vec<Part>, blow: Blow, bulk: bool) -> Result<Round> {
        self.round += 1;
        let number = self.round;
        let what = || format!("round {number}, {blow:?} of {}", names(&victims));
        let client = self.stage.client().await.with_context(what)?;
        self.history.wait_for_more(self.chance.random_range(1..80), SOON).await.with_context(what)?;
        // It fails when its server goes: that is what it is for.
        let writing = bulk.then(|| tokio::spawn(async move { drop(write_wal(&client, BULK_MIB).await) }));
        if bulk {
            self.history.wait_for_more(self.chance.random_range(1..20), SOON).await.with_context(what)?;
        }
        for part in &victims {
            self.blows += 1;
            self.strike(*part, blow).await.with_context(what)?;
        }
        match blow {
            Blow::Hang(time) | Blow::Cut(_, time) => tokio::time::sleep(time).await,
            Blow::Away => self.stage.write_wal(AWAY_MIB).await.with_context(what)?,
            Blow::Kill | Blow::KillTwice | Blow::Reset => {}
        }
        let mut risen = victims.clone();
        risen.shuffle(&mut self.chance);
        for part in &risen {
            self.raise(*part, blow).await.with_context(what)?;
        }
        let started = Instant::now();
        self.history.wait_for_more(20, SOON).await.with_context(what)?;
        let recovered = started.elapsed();
        if let Some(writing) = writing {
            writing.abort();
        }
        let (checked, equal_to) = self.check().await.with_context(what)?;
        Ok(Round { number, victims, blow, bulk, recovered, checked, equal_to })
    }

    async fn check(&mut self) -> Result<(Checked, u64)> {
        let checked = self.history.check(&self.stage.client().await?).await?;
        self.stage.all_have_everything().await?;
        Ok((checked, self.logs.compare(&self.stage).await?))
    }

    fn process(&mut self, part: Part) -> Result<Option<&mut Process>> {
        Ok(match part {
            Part::Safekeeper(id) => Some(self.stage.quorum.node(id)?),
            Part::Proposer => Some(&mut self.stage.proposer),
            Part::Rival => Some(&mut self.rival),
            Part::Primary => None,
        })
    }

    /// The proposers' way to a safekeeper, if that is what is hit.
    fn way_to(&self, part: Part) -> Option<&Forwarder> {
        let Part::Safekeeper(id) = part else { return None };
        self.network.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    async fn strike(&mut self, part: Part, blow: Blow) -> Result<()> {
        match (blow, self.way_to(part)) {
            (Blow::Cut(ways, _), Some(network)) => {
                ways.iter().for_each(|way| network.hold(*way));
                return Ok(());
            }
            (Blow::Reset, Some(network)) => {
                network.reset();
                return Ok(());
            }
            _ => {}
        }
        let hangs = matches!(blow, Blow::Hang(_));
        match self.process(part)? {
            Some(process) if hangs => process.pause(),
            Some(process) => process.kill(),
            None => self.stage.postgres.kill().await,
        }
    }

    async fn raise(&mut self, part: Part, blow: Blow) -> Result<()> {
        if let (Blow::Cut(..) | Blow::Reset, Some(network)) = (blow, self.way_to(part)) {
            network.release();
            return Ok(());
        }
        let alive = Duration::from_millis(self.chance.random_range(0..if blow == Blow::Away { 600 } else { 60 }));
        let twice = matches!(blow, Blow::KillTwice | Blow::Away);
        match self.process(part)? {
            Some(process) if matches!(blow, Blow::Hang(_)) => return process.resume(),
            Some(process) if twice => {
                process.start()?;
                tokio::time::sleep(alive).await;
                process.kill()?;
            }
            None if twice => {
                self.stage.postgres.start().await?;
                self.stage.postgres.kill().await?;
            }
            _ => {}
        }
        match part {
            Part::Safekeeper(id) => self.stage.quorum.node(id)?.revive().await,
            Part::Proposer => self.stage.proposer.revive().await,
            Part::Rival => self.rival.revive().await,
            Part::Primary => self.stage.postgres.start().await,
        }
    }
}

fn names(parts: &[Part]) -> String {
    let names: Vec<String> = parts.iter().map(ToString::to_string).collect();
    names.join(", ")
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Safekeeper(id) => write!(f, "safekeeper {id}"),
            Part::Proposer => f.write_str("proposer"),
            Part::Rival => f.write_str("second proposer"),
            Part::Primary => f.write_str("primary"),
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blow::Kill => f.write_str("killed"),
            Blow::KillTwice => f.write_str("killed twice"),
            Blow::Away => write!(f, "killed, {AWAY_MIB} MiB later killed again"),
            Blow::Hang(time) => write!(f, "stopped for {:.1} s", time.as_secs_f64()),
            Blow::Cut([_], time) => write!(f, "cut off one way for {:.1} s", time.as_secs_f64()),
            Blow::Cut(_, time) => write!(f, "cut off for {:.1} s", time.as_secs_f64()),
            Blow::Reset => f.write_str("connections reset of"),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Round { number, blow, checked, equal_to, .. } = self;
        let (victims, seconds) = (names(&self.victims), self.recovered.as_secs_f64());
        let bulk = if self.bulk { " in mid-bulk" } else { "" };
        let (high, low) = (equal_to >> 32, equal_to & 0xffff_ffff);
        write!(f, "round {number}: {blow}{bulk} {victims}; commits again after {seconds:.1} s; ")?;
        write!(f, "{checked}, logs equal to {high:X}/{low:X}")
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { rounds, blows, checked } = self;
        write!(f, "{rounds} rounds, {blows} kills, stops and cuts, {checked}, 0 lost")
    }
}

impl Outcome {
    /// Fails if so little was acknowledged that nothing was proved.
    pub fn expect_proof(&self) -> Result<()> {
        ensure!(self.checked.acknowledged >= 20, "too little was acknowledged: {}", self.checked);
        Ok(())
    }
}
