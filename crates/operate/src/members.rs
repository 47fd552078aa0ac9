//! Changing who belongs to a cluster.
//!
//! Only the elected leader changes membership. This asks for it, again and again until it is done, and prepares what a change needs: a
//! safekeeper that comes is made a learner first and waited for until it has nearly everything. Whatever breaks off can simply be run
//! again: before the leader made the record nothing has changed, and afterwards every leader finishes it by itself.
//!
//! `survey` asks, `plan` decides (pure), this file carries out.

mod plan;
mod survey;
mod waiting;

use config::{Address, MembersAction, MembersOptions};
use consensus::{Member, Membership};
use lsn::{Lsn, NodeId};
use plan::Repair;
use pq_proto::command::Command;
use quorum_proto::{InitCluster, LogState, MembersCommand, Wish};
use std::time::{Duration, Instant};
pub use survey::{Seen, Survey};
pub(crate) use survey::{rows, tell};
pub use waiting::Waiting;

/// How often everybody is asked while something is waited for.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A change that does not move for so long is given up; running the command again goes on with it.
const PATIENCE: Duration = Duration::from_secs(60);
/// A learner with so little left to learn may become a member.
const NEARLY: u64 = 16 << 20;

/// Why the members are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody has the cluster.
    #[error("no safekeeper that answers has {0}: check --safekeepers and --cluster")]
    NoCluster(String),
    /// Several clusters, and none was chosen.
    #[error("these safekeepers have several clusters: choose one with --cluster ({0})")]
    Several(String),
    /// A safekeeper that must answer does not.
    #[error("safekeeper {address} does not answer: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why not.
        reason: String,
    },
    /// What was asked for cannot be, or would endanger data.
    #[error("{0}; nothing was changed")]
    Refused(String),
    /// It takes too long.
    #[error("{0}; run the same command again to go on")]
    Late(String),
}

impl Error {
    /// Whether it was refused to protect data, rather than failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Refused(_))
    }
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Whether the record changed; false if it was as wanted already.
    pub changed: bool,
    /// Everybody, afterwards.
    pub survey: Survey,
    /// What there is to say, one sentence each.
    pub advice: Vec<String>,
}

/// Does what the options say. `say` is called with what is being waited for.
pub async fn members(options: &MembersOptions, say: &mut dyn FnMut(&str)) -> Result<Outcome, Error> {
    let survey = Survey::make(options).await?;
    match &options.action {
        MembersAction::List => Ok(Outcome { changed: false, advice: plan::advice(&survey), survey }),
        MembersAction::Repair { accept } => repair(options, survey, *accept).await,
        MembersAction::Remove { node } => {
            let wanted = plan::without(&survey.record, NodeId(*node)).map_err(Error::Refused)?;
            change(options, wanted, say).await
        }
        MembersAction::Add { new } => {
            let comes = survey::identify(new).await?;
            let record = settled(options, say).await?.record;
            let wanted = plan::with(&record, comes.clone()).map_err(Error::Refused)?;
            bring(options, &comes, say).await?;
            change(options, wanted, say).await
        }
        MembersAction::Replace { node, new } => {
            let comes = survey::identify(new).await?;
            let record = settled(options, say).await?.record;
            let goes = NodeId(*node);
            if plan::changes_disk(&record, &comes) {
                // Votes are counted by node: the old disk goes before the new one comes.
                let without = plan::without(&record, goes).map_err(Error::Refused)?;
                change(options, without, say).await?;
                let record = settled(options, say).await?.record;
                bring(options, &comes, say).await?;
                return change(options, plan::with(&record, comes).map_err(Error::Refused)?, say).await;
            }
            let wanted = plan::instead(&record, goes, comes.clone()).map_err(Error::Refused)?;
            bring(options, &comes, say).await?;
            change(options, wanted, say).await
        }
    }
}

/// Waits until no change is under way.
async fn settled(options: &MembersOptions, say: &mut dyn FnMut(&str)) -> Result<Survey, Error> {
    let began = Instant::now();
    loop {
        let survey = Survey::make(options).await?;
        if survey.record.new_members.is_none() {
            return Ok(survey);
        }
        say("a membership change is under way: waiting for the leader to finish it");
        if began.elapsed() > PATIENCE {
            let text =
                "a membership change is under way and is not finished: is a proposer leading? see seawall status";
            return Err(Error::Late(text.to_owned()));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Makes a safekeeper a learner and waits until it has nearly everything.
async fn bring(options: &MembersOptions, comes: &Member, say: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let survey = settled(options, say).await?;
    if survey.record.includes(comes.node, comes.disk) {
        return Ok(());
    }
    let join = InitCluster { name: survey.name.clone(), cluster: survey.cluster, membership: survey.record.clone() };
    let address = Address::new(&comes.host, comes.port);
    tell(&address, survey.cluster, &MembersCommand::Join(join)).await.map_err(Error::Refused)?;
    let (mut moved, mut before) = (Instant::now(), None);
    loop {
        let survey = Survey::make(options).await?;
        let commit = survey.commit();
        let learner = survey::ask(&address, Some(survey.cluster)).await;
        let (flush, problem) = match learner.map(|seen| seen.row) {
            Ok(Some(row)) => (Some(row.flush), String::new()),
            Ok(None) => (None, "it does not have the cluster".to_owned()),
            Err(reason) => (None, reason),
        };
        if flush.is_some_and(|flush| flush.saturating_add(NEARLY) >= commit) {
            return Ok(());
        }
        if flush != before {
            (moved, before) = (Instant::now(), flush);
        }
        let left = commit.bytes_since(flush.unwrap_or_default().min(commit));
        say(&format!("safekeeper {} is learning: {} of WAL to go {problem}", comes.node, config::ByteSize(left)));
        if moved.elapsed() > PATIENCE {
            let text = format!("safekeeper {} learns nothing more: see its status for why {problem}", comes.node);
            return Err(Error::Late(text));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Asks the leader for these members until they are.
async fn change(options: &MembersOptions, wanted: Vec<Member>, say: &mut dyn FnMut(&str)) -> Result<Outcome, Error> {
    let first = settled(options, say).await?;
    if plan::same(&first.record.members, &wanted) {
        return Ok(Outcome { changed: false, advice: plan::advice(&first), survey: first });
    }
    plan::check(&first, &wanted).map_err(Error::Refused)?;
    let began = Instant::now();
    loop {
        let survey = Survey::make(options).await?;
        if survey.record.new_members.is_none() && plan::same(&survey.record.members, &wanted) {
            return finish(options, &first.record, &survey).await;
        }
        let mut refusals = Vec::new();
        if survey.record.new_members.is_none() {
            let record = &survey.record;
            let wanted = Membership::new(record.generation, record.term, wanted.clone(), None);
            let wish = wanted
                .map_err(|error| error.to_string())
                .and_then(|wanted| Wish::new(wanted).map_err(|error| error.to_string()));
            let wish = MembersCommand::Change(wish.map_err(Error::Refused)?);
            for seen in survey.seen.iter().filter(|seen| seen.row.is_some()) {
                if let Err(reason) = tell(&seen.address, survey.cluster, &wish).await {
                    refusals.push(reason);
                }
            }
            if refusals.len() < survey.seen.len() {
                refusals.clear();
            }
        }
        say("waiting for the leader to make the new record");
        if began.elapsed() > PATIENCE {
            refusals.dedup();
            let reason = if refusals.is_empty() { String::new() } else { format!(" ({})", refusals.join("; ")) };
            return Err(Error::Late(format!("the leader has not finished the change{reason}: see seawall status")));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Those who went are told, and forget the cluster. One that cannot be reached is told by the next leader that sees it.
async fn finish(options: &MembersOptions, before: &Membership, survey: &Survey) -> Result<Outcome, Error> {
    let mut advice = Vec::new();
    let record = &survey.record;
    for gone in before.all_members().filter(|member| !record.includes(member.node, member.disk)) {
        let address = Address::new(&gone.host, gone.port);
        let told = match tell(&address, survey.cluster, &MembersCommand::Take(record.clone())).await {
            Ok(()) => tell(&address, survey.cluster, &MembersCommand::Drop(record.generation)).await,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = told {
            advice.push(format!("safekeeper {} could not be told that it is no member any more: {reason}", gone.node));
        }
    }
    let survey = Survey::make(options).await?;
    advice.extend(plan::advice(&survey));
    Ok(Outcome { changed: true, survey, advice })
}

async fn repair(options: &MembersOptions, survey: Survey, accept: bool) -> Result<Outcome, Error> {
    let unanswered = survey.unanswered();
    match plan::repair(&survey) {
        Repair::Nothing => Ok(Outcome { changed: false, advice: plan::advice(&survey), survey }),
        Repair::Learns => {
            let text =
                "damaged members learn what they lost as soon as a proposer leads: nothing is to be done by hand";
            Ok(Outcome { changed: false, advice: vec![text.to_owned()], survey })
        }
        Repair::Accept(_) if !accept => {
            let text = "too few members can vote: bring back lost disks, or give up what they lost with \
                        `seawall members repair --accept`";
            Ok(Outcome { changed: false, advice: vec![text.to_owned()], survey })
        }
        Repair::Accept(_) if !unanswered.is_empty() => {
            let text = format!("every member must answer before a damaged log may count, and {unanswered} does not");
            Err(Error::Refused(text))
        }
        Repair::Accept(chosen) => {
            for (address, end) in chosen {
                accept_one(&survey, &address, end).await?;
            }
            let survey = Survey::make(options).await?;
            Ok(Outcome { changed: true, advice: plan::advice(&survey), survey })
        }
    }
}

async fn accept_one(survey: &Survey, address: &Address, end: Lsn) -> Result<(), Error> {
    let told = tell(address, survey.cluster, &MembersCommand::Accept(end)).await;
    told.map_err(|reason| Error::Unreachable { address: address.to_string(), reason })
}

/// The text of a MEMBERS command.
fn text(command: &MembersCommand) -> String {
    Command::Members(command.to_options().into_iter().collect()).to_string()
}

/// Whether this disk counts and can vote.
fn votes(seen: &Seen) -> bool {
    seen.row.as_ref().is_some_and(|row| row.state == LogState::Member)
}
