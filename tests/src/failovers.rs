//! [`Failovers`]: clients commit while the primary dies, hangs or loses its proposer, one of two standbys takes over, and the old
//! primary comes back, as a zombie first and then as a standby.
//!
//! After each round every acknowledged row must be on the new primary, the zombie must have had nothing acknowledged, and both
//! standbys must follow. Nothing here is told to the parts that an operator would not tell them.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, Ledger, Mode, Postgres, Proposer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::stage::{CLUSTER, SOON, Stage};

const CLIENTS: i32 = 4;
/// A zombie's proposer looks again ever more rarely.
const REFUSED_WITHIN: Duration = Duration::from_secs(75);
/// How long a commit of a zombie is waited for in vain.
const IN_VAIN: Duration = Duration::from_secs(2);

/// What happens to a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// kill -9 of server and proposer.
    Killed,
    /// Server and proposer hang, and wake up when another leads: a machine that paused.
    Frozen,
    /// The proposer hangs alone; the server goes on, its commits wait.
    CutOff,
}

/// How the old primary becomes a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WayBack {
    Rewind,
    BaseBackup,
}

/// A primary, two standbys, and the plan of their failovers.
#[derive(Debug)]
pub struct Failovers {
    // Stopped before the servers are taken down.
    ledger: Ledger,
    standbys: Vec<Postgres>,
    stage: Stage,
    folder: Folder,
    chance: StdRng,
    round: u32,
}

/// How long the steps of one failover took.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// `seawall pre-promote`: from its start to its exit.
    pub pre_promote: Duration,
    /// `pg_promote` until the server takes writes.
    pub promote: Duration,
    /// From the start of the new primary's proposer to the first commit that returns.
    pub first_commit: Duration,
    /// All of it, from the blow on.
    pub whole: Duration,
}

/// What one round did; its text is one line.
#[derive(Debug)]
pub struct Failover {
    number: u32,
    blow: Blow,
    way_back: WayBack,
    acknowledged: usize,
    /// How long it took.
    pub times: Times,
}

impl Failovers {
    /// Sets the stage with two standbys fed by the safekeepers, and starts the clients.
    pub async fn begin(folder: &Folder, seed: u64) -> Result<Failovers> {
        // pg_rewind needs to know which pages the old primary touched.
        let stage =
            Stage::set_with(folder, |quorum| quorum, |postgres| postgres.setting("wal_log_hints", "on")).await?;
        let standbys = vec![stage.standby(folder, "first").await?, stage.standby(folder, "second").await?];
        let ledger = stage.ledger(CLIENTS).await?;
        let chance = StdRng::seed_from_u64(seed);
        Ok(Failovers { ledger, standbys, stage, folder: folder.clone(), chance, round: 0 })
    }

    /// One failover, and everything checked.
    pub async fn round(&mut self) -> Result<Failover> {
        self.round += 1;
        let blow = [Blow::Killed, Blow::Frozen, Blow::CutOff][self.round as usize % 3];
        let way_back = [WayBack::Rewind, WayBack::BaseBackup][self.round as usize % 2];
        let number = self.round;
        let times =
            self.take_over(blow, way_back).await.with_context(|| format!("round {number}, {blow}, {way_back}"))?;
        let acknowledged = self.ledger.acknowledged();
        Ok(Failover { number, blow, way_back, acknowledged, times })
    }

    /// Stops the clients and verifies for the last time; how many commits were acknowledged.
    pub async fn end(self) -> Result<usize> {
        let acknowledged = self.ledger.stop().await?;
        acknowledged.verify(&self.stage.client().await?).await?;
        for standby in &self.standbys {
            self.stage.follows(standby).await?;
        }
        Ok(acknowledged.len())
    }

    async fn take_over(&mut self, blow: Blow, way_back: WayBack) -> Result<Times> {
        self.ledger.wait_for_more(self.chance.random_range(20..150), SOON).await?;
        let (zombie, old_proposer, times) = self.fail_over(blow).await?;
        self.ledger.so_far().verify(&self.stage.client().await?).await.context("after the failover")?;
        if blow != Blow::Killed {
            nothing_from(&zombie, &old_proposer, blow).await?;
        }
        self.ledger.wait_for_more(20, SOON).await.context("beside the zombie")?;
        for standby in &self.standbys {
            self.stage.follows(standby).await.context("the other standby")?;
        }
        drop(old_proposer);
        let back = self.bring_back(zombie, way_back).await.context("the way back")?;
        self.stage.follows(&back).await.context("the old primary as a standby")?;
        self.standbys.push(back);
        self.ledger.so_far().verify(&self.stage.client().await?).await?;
        Ok(times)
    }

    /// From the blow until a commit returns on the new primary; the old one and its proposer are handed out.
    async fn fail_over(&mut self, blow: Blow) -> Result<(Postgres, Proposer, Times)> {
        match blow {
            Blow::Killed => self.stage.postgres.kill().await?,
            Blow::Frozen => self.stage.postgres.freeze().await?,
            Blow::CutOff => {}
        }
        let began = Instant::now();
        match blow {
            Blow::Killed => self.stage.proposer.kill()?,
            Blow::Frozen | Blow::CutOff => self.stage.proposer.pause()?,
        }
        let target = self.standbys.remove(self.chance.random_range(0..self.standbys.len()));
        let log = format!("pre-promote-{}", self.round);
        let asked = Instant::now();
        let token = self.stage.pre_promote(&self.folder, &target, &log).await?;
        let pre_promote = asked.elapsed();
        let promoting = Instant::now();
        target.promote().await.context("promote")?;
        let promote = promoting.elapsed();
        let addresses = self.stage.quorum.addresses();
        let started = Instant::now();
        let flags = ["--fence-token-file", &token];
        let proposer = self.stage.quorum.proposer_with(CLUSTER, &target.conninfo(), &addresses, &flags).await?;
        self.ledger.point_at(&target.conninfo());
        self.ledger.wait_for_more(1, SOON).await.context("a commit on the new primary")?;
        let times = Times { pre_promote, promote, first_commit: started.elapsed(), whole: began.elapsed() };
        let zombie = std::mem::replace(&mut self.stage.postgres, target);
        let old_proposer = std::mem::replace(&mut self.stage.proposer, proposer);
        Ok((zombie, old_proposer, times))
    }

    async fn bring_back(&mut self, old: Postgres, way_back: WayBack) -> Result<Postgres> {
        if old.pid().is_some() {
            old.stop(Mode::Immediate, SOON).await?;
        }
        match way_back {
            WayBack::Rewind => {
                // Before 16 pg_rewind takes the TLI of the newest checkpoint for the one the server is on.
                self.stage.client().await?.batch_execute("CHECKPOINT").await?;
                old.rewind_to(&self.stage.postgres).await?;
                let name = old.name();
                drop(old);
                let back = self.stage.standby_in(&self.folder, &name).await?;
                let left = "SELECT count(*) FROM pg_replication_slots";
                let left: i64 = back.client().await?.query_one(left, &[]).await?.get(0);
                ensure!(left == 0, "pg_rewind left {left} slots, which hold WAL back for ever");
                Ok(back)
            }
            WayBack::BaseBackup => {
                let gone = old.data_dir().to_path_buf();
                drop(old);
                fs::remove_dir_all(gone)?;
                self.stage.standby(&self.folder, &format!("copy-{}", self.round)).await
            }
        }
    }
}

/// Fails if a superseded primary gets a commit acknowledged; its proposer has to say why not.
async fn nothing_from(zombie: &Postgres, proposer: &Proposer, blow: Blow) -> Result<()> {
    if blow == Blow::Frozen {
        zombie.thaw().await?;
    }
    proposer.resume()?;
    let commit = async {
        let client = zombie.client().await?;
        client.batch_execute("CREATE TABLE pretence (a int)").await.context("a superseded primary's client")
    };
    let commit = tokio::time::timeout(IN_VAIN, commit).await;
    ensure!(!matches!(commit, Ok(Ok(()))), "a superseded primary's commit returned");
    proposer
        .wait_until("a refused old proposer", REFUSED_WITHIN, |status| {
            status["refusal"].as_str().is_some_and(|refusal| refusal.contains("left the quorum's log"))
        })
        .await?;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let waits: i64 = zombie.client().await?.query_one(waits, &[]).await?.get(0);
    ensure!(waits > 0, "nobody waits on the superseded primary, so somebody was told that it committed");
    Ok(())
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blow::Killed => "killed",
            Blow::Frozen => "stopped, and woken as a zombie",
            Blow::CutOff => "without its proposer, which woke up later",
        })
    }
}

impl fmt::Display for WayBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WayBack::Rewind => "back by pg_rewind",
            WayBack::BaseBackup => "back by a base backup",
        })
    }
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failover { number, blow, way_back, acknowledged, times } = self;
        write!(f, "failover {number}: {blow}, {way_back}; commits again after {:.1} s ", times.whole.as_secs_f64())?;
        let [fit, promoted, first] = [times.pre_promote, times.promote, times.first_commit].map(|t| t.as_secs_f64());
        write!(f, "(pre-promote {fit:.2}, promotion {promoted:.2}, proposer {first:.2}); ")?;
        write!(f, "{acknowledged} acknowledged, none lost, none by the zombie")
    }
}
