//! [`Rounds`]: clients commit while one part after the other is killed, and each time nothing may be missing.
//!
//! One seed, one sequence of victims. What happens in between is up to the machine: the same seed is the same plan, not the same run.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, Ledger};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::logs::Logs;
use crate::stage::{SOON, Stage};

const CLIENTS: i32 = 6;

/// Who can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Safekeeper(u64),
    Proposer,
    Primary,
}

const EVERYTHING: [Part; 5] =
    [Part::Safekeeper(1), Part::Safekeeper(2), Part::Safekeeper(3), Part::Proposer, Part::Primary];

/// A stage under load and the plan of its crashes.
#[derive(Debug)]
pub struct Rounds {
    // Stopped before the stage is taken down.
    ledger: Ledger,
    stage: Stage,
    folder: Folder,
    logs: Logs,
    chance: StdRng,
    deck: Vec<Vec<Part>>,
    round: u32,
    kills: u32,
}

/// What one round did; its text is one line.
#[derive(Debug)]
pub struct Round {
    number: u32,
    killed: Vec<Part>,
    twice: bool,
    recovered: Duration,
    acknowledged: usize,
    equal_to: u64,
}

/// What all rounds came to; its text is one line.
#[derive(Debug)]
pub struct Outcome {
    rounds: u32,
    kills: u32,
    acknowledged: usize,
}

impl Rounds {
    /// Sets the stage and starts the clients.
    pub async fn begin(folder: &Folder, seed: u64) -> Result<Rounds> {
        let stage = Stage::set(folder).await?;
        let ledger = stage.ledger(CLIENTS).await?;
        Ok(Rounds {
            ledger,
            stage,
            folder: folder.clone(),
            logs: Logs::new(),
            chance: StdRng::seed_from_u64(seed),
            deck: Vec::new(),
            round: 0,
            kills: 0,
        })
    }

    /// Kills who is next in the plan, starts them again, and checks everything.
    pub async fn round(&mut self) -> Result<Round> {
        let victims = self.draw();
        self.round_with(victims).await
    }

    /// A last round in which everything is killed, and `pg_waldump` over what is left.
    pub async fn end(mut self) -> Result<(Round, Outcome)> {
        let mut everything = EVERYTHING.to_vec();
        everything.shuffle(&mut self.chance);
        let round = self.round_with(everything).await?;
        let acknowledged = self.ledger.stop().await?;
        acknowledged.verify(&self.stage.client().await?).await?;
        self.stage.all_have_everything().await?;
        self.logs.compare(&self.stage).await?;
        Logs::new().compare(&self.stage).await.context("all bytes from the first one on")?;
        self.logs.dump(&self.stage, &self.folder).await?;
        Ok((round, Outcome { rounds: self.round, kills: self.kills, acknowledged: acknowledged.len() }))
    }

    /// Every kind of crash comes once before one comes again.
    fn draw(&mut self) -> Vec<Part> {
        if self.deck.is_empty() {
            self.deck = EVERYTHING.iter().map(|part| vec![*part]).collect();
            let safekeeper = Part::Safekeeper(self.chance.random_range(1..=3));
            let other = Part::Safekeeper(self.chance.random_range(1..=3));
            self.deck.push(vec![safekeeper, Part::Proposer]);
            self.deck.push(vec![safekeeper, Part::Primary]);
            self.deck.push(vec![Part::Proposer, Part::Primary]);
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

    async fn round_with(&mut self, killed: Vec<Part>) -> Result<Round> {
        self.round += 1;
        let number = self.round;
        let what = || format!("round {number}, killed {}", names(&killed));
        self.ledger.wait_for_more(self.chance.random_range(1..80), SOON).await.with_context(what)?;
        for part in &killed {
            self.kill(*part).await.with_context(what)?;
        }
        let mut risen = killed.clone();
        risen.shuffle(&mut self.chance);
        // Whoever dies while it recovers must recover all the same.
        let twice = self.chance.random_bool(0.25);
        for part in &risen {
            self.start(*part, twice).await.with_context(what)?;
        }
        let started = Instant::now();
        self.ledger.wait_for_more(20, SOON).await.with_context(what)?;
        let recovered = started.elapsed();
        let equal_to = self.check().await.with_context(what)?;
        Ok(Round { number, killed, twice, recovered, acknowledged: self.ledger.acknowledged(), equal_to })
    }

    async fn check(&mut self) -> Result<u64> {
        self.ledger.so_far().verify(&self.stage.client().await?).await?;
        self.stage.all_have_everything().await?;
        self.logs.compare(&self.stage).await
    }

    async fn kill(&mut self, part: Part) -> Result<()> {
        self.kills += 1;
        match part {
            Part::Safekeeper(id) => self.stage.quorum.node(id)?.kill(),
            Part::Proposer => self.stage.proposer.kill(),
            Part::Primary => self.stage.postgres.kill().await,
        }
    }

    async fn start(&mut self, part: Part, twice: bool) -> Result<()> {
        match part {
            Part::Safekeeper(id) => {
                let node = self.stage.quorum.node(id)?;
                if twice {
                    node.start()?;
                    tokio::time::sleep(Duration::from_millis(self.chance.random_range(0..30))).await;
                    node.kill()?;
                }
                node.revive().await
            }
            Part::Proposer => {
                if twice {
                    self.stage.proposer.start()?;
                    tokio::time::sleep(Duration::from_millis(self.chance.random_range(0..60))).await;
                    self.stage.proposer.kill()?;
                }
                self.stage.proposer.revive().await
            }
            Part::Primary => {
                self.stage.postgres.start().await?;
                if twice {
                    self.stage.postgres.kill().await?;
                    self.stage.postgres.start().await?;
                }
                Ok(())
            }
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
            Part::Primary => f.write_str("primary"),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let twice = if self.twice { " twice" } else { "" };
        let Round { number, acknowledged, equal_to, .. } = self;
        let seconds = self.recovered.as_secs_f64();
        let killed = names(&self.killed);
        write!(
            f,
            "round {number}: killed{twice} {killed}; commits again after {seconds:.1} s; {acknowledged} acknowledged, none lost, \
             logs equal to {:X}/{:X}",
            equal_to >> 32,
            equal_to & 0xffff_ffff
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { rounds, kills, acknowledged } = self;
        write!(f, "{rounds} rounds, {kills} kills, {acknowledged} acknowledged commits, 0 lost")
    }
}

impl Outcome {
    /// Fails if so little was acknowledged that nothing was proved.
    pub fn expect_proof(&self) -> Result<()> {
        ensure!(self.acknowledged >= 20, "only {} commits were acknowledged", self.acknowledged);
        Ok(())
    }
}
