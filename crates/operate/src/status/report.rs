//! What the parts say, and the [`Report`] made of it. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A part's answer.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Proposer(Box<Proposer>),
    Safekeeper(Safekeeper),
}

/// `GET /v1/status` of a proposer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Proposer {
    pub(crate) cluster: Option<String>,
    pub(crate) state: String,
    pub(crate) protected: bool,
    pub(crate) reasons: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
    pub(crate) refusal: Option<String>,
    pub(crate) primary: Option<PrimaryReport>,
    pub(crate) term: Option<u64>,
    pub(crate) commit_lsn: Option<String>,
    pub(crate) received_lsn: Option<String>,
    pub(crate) safekeepers: Vec<ProposerSafekeeper>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ProposerSafekeeper {
    node_id: Option<u64>,
    address: String,
    state: String,
    flush_lsn: Option<String>,
    lag_bytes: Option<u64>,
    error: Option<String>,
}

/// `GET /v1/status` of a safekeeper.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Safekeeper {
    node_id: u64,
    pg: String,
    clusters: Vec<SafekeeperCluster>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SafekeeperCluster {
    name: Option<String>,
    state: String,
    flush_lsn: Option<String>,
    commit_lsn: Option<String>,
    stopped: Option<String>,
    archive: Option<SafekeeperArchive>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SafekeeperArchive {
    uploading: bool,
    #[serde(flatten)]
    report: ArchiveReport,
}

/// A code for machines and a sentence for people.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Finding {
    /// The code.
    pub code: String,
    /// The sentence.
    pub text: String,
}

/// The primary, as its proposer knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PrimaryReport {
    /// `host:port`.
    pub address: Option<String>,
    /// Its system identifier, in decimal.
    pub system_id: Option<serde_json::Value>,
    /// The TLI it writes.
    pub tli: Option<u32>,
    /// `server_version_num`.
    pub version_num: Option<u32>,
    /// Its flush position.
    pub flush_lsn: Option<String>,
}

/// One safekeeper of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SafekeeperReport {
    /// Its number; `None` while nobody reached it.
    pub node_id: Option<u64>,
    /// `host:port` of PostgreSQL's protocol.
    pub address: String,
    /// What the proposer says of the session with it, or else what it says of itself.
    pub state: String,
    /// Its flush LSN.
    pub flush_lsn: Option<String>,
    /// How far it is behind the leader, in bytes.
    pub lag_bytes: Option<u64>,
    /// What is the matter with it.
    pub error: Option<String>,
}

/// A cluster's archive, as the safekeeper that uploads says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ArchiveReport {
    /// Where it is.
    pub url: String,
    /// Everything below is in it.
    pub archived_lsn: Option<String>,
    /// How much committed WAL is not in it yet, in bytes.
    pub lag_bytes: Option<u64>,
    /// Why uploading does not go on.
    pub problem: Option<String>,
    /// Committed WAL that is not in it and no longer on the safekeeper: `X/X..X/X`.
    pub lost: Option<String>,
}

/// One cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ClusterReport {
    /// Its name.
    pub name: String,
    /// Whether its proposer says that acknowledged commits are safe.
    pub protected: bool,
    /// What its proposer is doing; empty without one.
    pub state: String,
    /// Why it is UNPROTECTED.
    pub reasons: Vec<Finding>,
    /// What should be known besides.
    pub warnings: Vec<Finding>,
    /// The primary, if there is one.
    pub primary: Option<PrimaryReport>,
    /// The leader's term.
    pub term: Option<u64>,
    /// Everything below is durable on a majority.
    pub commit_lsn: Option<String>,
    /// How far the proposer has received from the primary.
    pub received_lsn: Option<String>,
    /// Its safekeepers.
    pub safekeepers: Vec<SafekeeperReport>,
    /// Its archive; `None` if no safekeeper that answered has one.
    pub archive: Option<ArchiveReport>,
}

/// Every cluster that the parts know.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Whether there is a cluster and all of them are protected.
    pub protected: bool,
    /// By name.
    pub clusters: Vec<ClusterReport>,
    /// Parts that do not answer.
    pub problems: Vec<String>,
}

impl Report {
    pub(crate) fn new(parts: Vec<Part>, problems: Vec<String>) -> Report {
        let mut clusters: BTreeMap<String, ClusterReport> = BTreeMap::new();
        let mut safekeepers = Vec::new();
        for part in parts {
            match part {
                Part::Proposer(proposer) => add_proposer(&mut clusters, *proposer),
                Part::Safekeeper(safekeeper) => safekeepers.push(safekeeper),
            }
        }
        for safekeeper in safekeepers {
            add_safekeeper(&mut clusters, safekeeper);
        }
        let clusters: Vec<ClusterReport> = clusters.into_values().collect();
        let protected = !clusters.is_empty() && clusters.iter().all(|cluster| cluster.protected);
        Report { protected, clusters, problems }
    }
}

fn add_proposer(clusters: &mut BTreeMap<String, ClusterReport>, proposer: Proposer) {
    let name = proposer.cluster.unwrap_or_else(|| "(not known yet)".to_owned());
    let mut reasons = proposer.reasons;
    if let Some(refusal) = proposer.refusal {
        reasons.push(Finding { code: "refused".to_owned(), text: refusal });
    }
    let safekeeper = |seen: ProposerSafekeeper| SafekeeperReport {
        node_id: seen.node_id,
        address: seen.address,
        state: seen.state,
        flush_lsn: seen.flush_lsn,
        lag_bytes: seen.lag_bytes,
        error: seen.error,
    };
    let report = ClusterReport {
        name: name.clone(),
        protected: proposer.protected,
        state: proposer.state,
        reasons,
        warnings: proposer.warnings,
        primary: proposer.primary,
        term: proposer.term,
        commit_lsn: proposer.commit_lsn,
        received_lsn: proposer.received_lsn,
        safekeepers: proposer.safekeepers.into_iter().map(safekeeper).collect(),
        archive: None,
    };
    match clusters.get(&name) {
        // Of two proposers of one cluster the one that leads speaks for it.
        Some(other) if other.protected || other.state == "leading" => {}
        _ => {
            clusters.insert(name, report);
        }
    }
}

fn add_safekeeper(clusters: &mut BTreeMap<String, ClusterReport>, part: Safekeeper) {
    for cluster in part.clusters {
        let name = cluster.name.unwrap_or_else(|| "(cannot be opened)".to_owned());
        let report = clusters.entry(name.clone()).or_insert_with(|| ClusterReport {
            name,
            commit_lsn: cluster.commit_lsn.clone(),
            reasons: vec![Finding {
                code: "no-proposer".to_owned(),
                text: "no proposer was asked or none answers, so nobody knows whether commits wait; start walproposer, or name it with --http"
                    .to_owned(),
            }],
            ..ClusterReport::default()
        });
        // The one that uploads knows; before anyone does, the place alone is known.
        if let Some(archive) = cluster.archive
            && (archive.uploading || report.archive.is_none())
        {
            report.archive = Some(archive.report);
        }
        let trouble = cluster.stopped.or_else(|| match cluster.state.as_str() {
            "member" => None,
            state => Some(format!("it does not vote ({state})")),
        });
        match report
            .safekeepers
            .iter_mut()
            .find(|known| known.node_id == Some(part.node_id) || known.address == part.pg)
        {
            Some(known) => {
                known.node_id = Some(part.node_id);
                if known.flush_lsn.is_none() {
                    known.flush_lsn = cluster.flush_lsn;
                }
                known.error = trouble.or_else(|| known.error.take());
            }
            None => report.safekeepers.push(SafekeeperReport {
                node_id: Some(part.node_id),
                address: part.pg.clone(),
                state: cluster.state,
                flush_lsn: cluster.flush_lsn,
                lag_bytes: None,
                error: trouble,
            }),
        }
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
