//! Beginning a cluster: the same record to every safekeeper.
//!
//! Everyone must answer and nobody may know the name, so that a cluster never begins with a record some safekeeper contradicts. An init
//! that broke off half-way is finished from the record it left; anything else that already stands under the name is left alone.
//! The decision ([`plan`]) is pure; the rest is connections.

use config::{Address, InitOptions};
use consensus::{Member, Membership, MembershipError};
use lsn::{ClusterId, DiskId, NodeId, SystemId, Term};
use pg_conn::{ConnInfo, Connection, Row, StartupExtra};
use pq_proto::SqlState;
use pq_proto::command::Command;
use quorum_proto::{InitCluster, LogStatusRow};
use std::time::Duration;

/// How long a safekeeper may take to answer; making a cluster durable counts.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why there is no new cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A safekeeper cannot be asked.
    #[error("safekeeper {address} does not answer: {source}; every safekeeper must answer before a cluster begins")]
    Unreachable {
        /// Where.
        address: Address,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else than one of our safekeepers.
    #[error("{0} is not a Seawall safekeeper: it does not say its node and disk")]
    NotSeawall(Address),
    /// An answer that cannot be read.
    #[error("safekeeper {address} gave an answer that cannot be read: {source}")]
    Answer {
        /// Where.
        address: Address,
        /// What is wrong with it.
        source: quorum_proto::Error,
    },
    /// The safekeepers given cannot be members of one cluster.
    #[error("these safekeepers cannot make a cluster: {0}; give each its own --id and data directory")]
    Members(#[from] MembershipError),
    /// The name already stands for something else.
    #[error("cluster {name} already exists: {problem}; nothing was changed")]
    Exists {
        /// The name.
        name: String,
        /// What stands there.
        problem: String,
    },
    /// Another init, with other safekeepers, came in between.
    #[error(
        "another init of cluster {name} was faster: {problem}; safekeepers {told} keep a record that nobody uses: give them a new \
         data directory, or choose another name"
    )]
    Overtaken {
        /// The name.
        name: String,
        /// What stands there.
        problem: String,
        /// Who has our record.
        told: String,
    },
    /// The cluster exists, but a member has lost it, or has another disk.
    #[error(
        "cluster {name} already runs, and safekeeper {node} does not have it; it must not vote again before it has learned what it \
         lost; nothing was changed"
    )]
    Lost {
        /// The name.
        name: String,
        /// The safekeeper without it.
        node: NodeId,
    },
    /// The primary cannot be used.
    #[error("the primary cannot be protected: {0}")]
    Primary(#[from] pg_source::Error),
    /// The primary belongs to another cluster.
    #[error("cluster {name} holds the WAL of system {there}, and the primary is system {here}; nothing was changed")]
    OtherSystem {
        /// The name.
        name: String,
        /// Whose WAL there is.
        there: SystemId,
        /// Who the primary is.
        here: SystemId,
    },
}

impl Error {
    /// Whether it was refused to protect data, rather than failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Exists { .. } | Error::Overtaken { .. } | Error::Lost { .. } | Error::OtherSystem { .. })
    }
}

/// What an init did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// The cluster is new.
    Created,
    /// An init that broke off is finished.
    Finished,
    /// Every safekeeper had the record already.
    AlreadyThere,
}

/// A cluster that every one of its safekeepers knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What was done.
    pub done: Done,
    /// The record.
    pub record: InitCluster,
    /// What the primary's settings lack, one sentence each; empty without a primary.
    pub advice: Vec<String>,
}

/// Begins a cluster, or finishes beginning it.
pub async fn init(options: &InitOptions) -> Result<Outcome, Error> {
    begin_era(options, rand::random()).await
}

/// The same for another era of a cluster: its tenant id stays, so that both are known to be of one.
pub(crate) async fn begin_era(options: &InitOptions, tenant: [u8; 16]) -> Result<Outcome, Error> {
    let primary = match &options.primary {
        Some(conninfo) => {
            let info: ConnInfo = conninfo.as_str().parse().map_err(pg_source::Error::from)?;
            let info = info.with_env(|name| std::env::var(name).ok()).map_err(pg_source::Error::from)?;
            Some(pg_source::attach(&pg_source::Options::new(info)).await?)
        }
        None => None,
    };
    let mut safekeepers = Vec::new();
    for address in &options.safekeepers {
        safekeepers.push(ask(address, options.cluster.as_str()).await?);
    }
    let answers: Vec<Answer> = safekeepers.iter().map(|(_, answer)| answer.clone()).collect();
    if let Some(primary) = &primary {
        let known =
            answers.iter().filter_map(|answer| answer.row.as_ref()).map(|row| row.system_id).find(|id| id.0 != 0);
        if let Some(there) = known.filter(|there| *there != primary.facts.system_id) {
            let (name, here) = (options.cluster.to_string(), primary.facts.system_id);
            return Err(Error::OtherSystem { name, there, here });
        }
    }
    let fresh = ClusterId { tenant, timeline: rand::random() };
    let plan = plan(options.cluster.as_str(), &answers, fresh)?;
    let command = Command::InitCluster(plan.record.to_options().into_iter().collect()).to_string();
    let mut told: Vec<String> = Vec::new();
    for index in &plan.tell {
        let Some((connection, answer)) = safekeepers.get_mut(*index) else { continue };
        match query(connection, &command).await {
            Ok(_) => told.push(answer.node.to_string()),
            Err(pg_conn::Error::Server(report)) if report.code == SqlState::DUPLICATE_OBJECT => {
                let (name, problem) = (options.cluster.to_string(), report.message.clone());
                return Err(match told.is_empty() {
                    true => Error::Exists { name, problem },
                    false => Error::Overtaken { name, problem, told: told.join(", ") },
                });
            }
            Err(error) => return Err(unreachable(&answer.address, error)),
        }
    }
    let advice = primary.map(|primary| advice(&primary)).unwrap_or_default();
    Ok(Outcome { done: plan.done, record: plan.record, advice })
}

/// What must be set before the primary counts as protected. That nobody streams yet is no advice.
fn advice(primary: &pg_source::Primary) -> Vec<String> {
    let observer = pg_source::Observer {
        application_name: pg_source::APPLICATION_NAME,
        slot: pg_source::SLOT,
        walsender_pid: Some(primary.facts.walsender_pid),
        commit: None,
        counts_standbys: false,
    };
    let assessment = pg_source::assess(&primary.settings, &observer);
    let later = ["slot-lost", "slot-not-ours", "name-taken"];
    assessment.reasons.into_iter().filter(|reason| !later.contains(&reason.code)).map(|reason| reason.text).collect()
}

/// What one safekeeper said.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answer {
    address: Address,
    node: NodeId,
    disk: DiskId,
    /// What it has under the name.
    row: Option<LogStatusRow>,
}

async fn ask(address: &Address, name: &str) -> Result<(Connection, Answer), Error> {
    let mut connection = connect(address).await?;
    let identity = {
        let parameter = |name: &str| connection.parameters().get(name);
        parameter("seawall_node_id")
            .and_then(|id| id.parse().ok())
            .zip(parameter("seawall_disk_id").and_then(|id| id.parse().ok()))
    };
    let (node, disk) = identity.ok_or_else(|| Error::NotSeawall(address.clone()))?;
    let rows = query(&mut connection, "LOG_STATUS").await.map_err(|error| unreachable(address, error))?;
    let mut found = None;
    for row in &rows {
        let row = LogStatusRow::from_row(|column| row.get(column))
            .map_err(|source| Error::Answer { address: address.clone(), source })?;
        if row.name == name {
            found = Some(row);
        }
    }
    Ok((connection, Answer { address: address.clone(), node, disk, row: found }))
}

/// A safekeeper that takes connections and then says nothing must not keep an operator waiting for ever.
async fn query(connection: &mut Connection, command: &str) -> Result<Vec<Row>, pg_conn::Error> {
    match tokio::time::timeout(ANSWER_WITHIN, connection.simple_query(command)).await {
        Ok(answer) => answer,
        Err(_) => {
            let silent = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, silent).into())
        }
    }
}

async fn connect(address: &Address) -> Result<Connection, Error> {
    let shown = crate::process::outgoing_from_env().and_then(|outgoing| outgoing.settings(&address.host));
    let shown = shown.map_err(|error| unreachable(address, error))?;
    let conninfo = || {
        let info = "user=seawall connect_timeout=5".parse::<ConnInfo>()?;
        let info = info.with("host", &address.host)?.with("port", &address.port.to_string())?;
        shown.iter().try_fold(info, |info, (key, value)| info.with(key, value))
    };
    let info = conninfo().map_err(|error| unreachable(address, error))?;
    pg_conn::connect(&info, &StartupExtra::default()).await.map_err(|error| unreachable(address, error))
}

fn unreachable(address: &Address, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Unreachable { address: address.clone(), source: Box::new(source) }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    done: Done,
    record: InitCluster,
    /// Which of the safekeepers, by place, must be told, in the order of their numbers: of inits that race, the one that reaches the
    /// first safekeeper first wins, and the others have changed nothing yet.
    tell: Vec<usize>,
}

/// What to tell whom. `fresh` names the cluster if it is new.
fn plan(name: &str, answers: &[Answer], fresh: ClusterId) -> Result<Plan, Error> {
    let exists = |problem: String| Error::Exists { name: name.to_owned(), problem };
    let known: Vec<&LogStatusRow> = answers.iter().filter_map(|answer| answer.row.as_ref()).collect();
    let Some(first) = known.first() else {
        let member = |answer: &Answer| Member {
            node: answer.node,
            disk: answer.disk,
            host: answer.address.host.clone(),
            port: answer.address.port,
        };
        let membership = Membership::new(1, Term(0), answers.iter().map(member).collect(), None)?;
        let record = InitCluster { name: name.to_owned(), cluster: fresh, membership };
        return Ok(Plan { done: Done::Created, record, tell: in_order(answers, |_| true) });
    };
    if let Some(other) = known.iter().find(|row| row.cluster != first.cluster) {
        let problem = format!("safekeepers {} and {} know different clusters under this name", first.node, other.node);
        return Err(exists(problem));
    }
    let newest = known.iter().max_by_key(|row| row.membership.precedence()).unwrap_or(first);
    let members: Vec<NodeId> = newest.membership.all_members().map(|member| member.node).collect();
    if let Some(stranger) = answers.iter().find(|answer| !members.contains(&answer.node)) {
        return Err(exists(format!("safekeeper {} at {} is not one of its members", stranger.node, stranger.address)));
    }
    if members.len() != answers.len() {
        let shown: Vec<String> = members.iter().map(ToString::to_string).collect();
        return Err(exists(format!("its members are the safekeepers {}; name all of them", shown.join(", "))));
    }
    let record = InitCluster { name: name.to_owned(), cluster: first.cluster, membership: newest.membership.clone() };
    let tell = in_order(answers, |answer| answer.row.is_none());
    let is_new = known
        .iter()
        .all(|row| row.term == Term(0) && !row.flush.is_valid() && row.membership.precedence() == (1, Term(0)));
    let lost = tell.iter().map(|index| &answers[*index]).find(|answer| {
        // Only a disk the record was made for, and only before anybody voted, can have missed nothing.
        !is_new || !record.membership.includes(answer.node, answer.disk)
    });
    match lost {
        Some(answer) => Err(Error::Lost { name: name.to_owned(), node: answer.node }),
        None if tell.is_empty() => Ok(Plan { done: Done::AlreadyThere, record, tell }),
        None => Ok(Plan { done: Done::Finished, record, tell }),
    }
}

/// The places of some answers, in the order of the safekeepers' numbers.
fn in_order(answers: &[Answer], wanted: impl Fn(&Answer) -> bool) -> Vec<usize> {
    let mut places: Vec<usize> = (0..answers.len()).filter(|place| wanted(&answers[*place])).collect();
    places.sort_by_key(|place| answers[*place].node);
    places
}

#[cfg(test)]
#[path = "init_test.rs"]
mod tests;
