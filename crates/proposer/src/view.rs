//! What people and Prometheus see of a proposer.
//!
//! Questions come from the HTTP thread and are answered here, on the thread that leads.

use crate::driver::Driver;
use http_api::{Question, Questions};
use leader::{PeerStatus, State, Status};
use lsn::Lsn;
use pg_source::{Assessment, Finding};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

/// What can be shown before a cluster is found, and afterwards.
#[derive(Clone)]
pub(crate) enum Shown {
    /// Still looking for the cluster; the state and a sentence.
    Discovering {
        cluster: Option<String>,
        trouble: Option<String>,
    },
    Driving(Rc<Driver>),
}

/// What the questions are answered from; set by whoever runs.
pub(crate) type Stage = Rc<RefCell<Shown>>;

/// Answers until nobody can ask any more.
pub(crate) async fn answer_questions(stage: Stage, mut questions: Questions) {
    while let Some(asked) = questions.next().await {
        let shown = stage.borrow().clone();
        let value = match &asked.question {
            Question::Status => status(&shown),
            Question::Cluster(name) => {
                let status = status(&shown);
                let named = status.get("cluster").and_then(Value::as_str) == Some(name.as_str());
                if named { status } else { Value::Null }
            }
            Question::Ready => readiness(&shown).map_or_else(Value::String, |()| Value::Null),
            Question::RefreshGauges => {
                if let Shown::Driving(driver) = &shown {
                    refresh_gauges(driver);
                }
                Value::Null
            }
        };
        asked.answer(value);
    }
}

fn status(shown: &Shown) -> Value {
    match shown {
        Shown::Discovering { cluster, trouble } => {
            let unverified = Assessment::unverified("the safekeepers have not been asked yet");
            json!({
                "kind": "proposer", "version": env!("CARGO_PKG_VERSION"), "cluster": cluster, "state": "waiting",
                "protected": false, "reasons": findings(&unverified.reasons), "warnings": [], "refusal": null,
                "trouble": trouble, "primary": null, "term": null, "term_start_lsn": null, "commit_lsn": null,
                "received_lsn": null, "answered_lsn": null, "safekeepers": [],
            })
        }
        Shown::Driving(driver) => {
            let status = driver.leader().status();
            describe(driver, &status, &driver.assessment(), Instant::now())
        }
    }
}

fn describe(driver: &Driver, status: &Status, assessment: &Assessment, now: Instant) -> Value {
    let facts = driver.facts();
    let primary = status.primary.as_ref().zip(facts.as_ref()).map(|(primary, facts)| {
        json!({
            "address": facts.host,
            "system_id": primary.system_id.to_string(),
            "tli": primary.tli.0,
            "version_num": primary.version_num,
            "flush_lsn": primary.flush.to_string(),
            "slot_restart_lsn": lsn(primary.slot.and_then(|slot| slot.restart)),
        })
    });
    let safekeepers: Vec<Value> = status.peers.iter().map(|peer| safekeeper(peer, now)).collect();
    json!({
        "kind": "proposer",
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": driver.name(),
        "tenant_id": driver.cluster().tenant_hex(),
        "timeline_id": driver.cluster().timeline_hex(),
        "state": status.state.as_str(),
        "protected": is_protected(status, assessment),
        "reasons": reasons(status, assessment),
        "warnings": findings(&assessment.warnings),
        "refusal": status.refusal.as_ref().map(ToString::to_string),
        "trouble": status.trouble,
        "primary": primary,
        "term": status.term.map(|term| term.0),
        "term_start_lsn": lsn(status.term_start),
        "commit_lsn": lsn(status.commit),
        "received_lsn": lsn(status.received),
        "answered_lsn": lsn(Some(status.answered)),
        "safekeepers": safekeepers,
    })
}

/// Settings that make commits wait protect nobody until a term was won on this connection: before, the server may be another one than
/// the quorum's, whose settings prove nothing.
fn is_protected(status: &Status, assessment: &Assessment) -> bool {
    assessment.is_protected() && status.state == State::Leading
}

/// Why it is not protected. A refusal stands beside, and is not said twice.
fn reasons(status: &Status, assessment: &Assessment) -> Vec<Value> {
    let mut reasons = findings(&assessment.reasons);
    if status.state != State::Leading && status.refusal.is_none() {
        let trouble = status.trouble.clone();
        let text =
            trouble.unwrap_or_else(|| format!("the proposer is {}: no commit returns until it leads", status.state));
        reasons.push(json!({"code": "not-leading", "text": text}));
    }
    reasons
}

fn safekeeper(peer: &PeerStatus, now: Instant) -> Value {
    let millis = |at: Instant| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
    json!({
        "node_id": peer.node.map(|node| node.0),
        "address": peer.address,
        "state": peer.state.as_str(),
        "flush_lsn": lsn(peer.flush),
        "lag_bytes": peer.lag_bytes,
        "queue_bytes": peer.queue_bytes,
        "last_response_ms": peer.responded.map(millis),
        "error": peer.error,
    })
}

fn findings(findings: &[Finding]) -> Vec<Value> {
    findings.iter().map(|finding| json!({"code": finding.code, "text": finding.text})).collect()
}

fn lsn(position: Option<Lsn>) -> Option<String> {
    position.filter(|position| position.is_valid()).map(|position| position.to_string())
}

/// Ready once everything the primary had when it was attached is committed by the quorum.
fn readiness(shown: &Shown) -> Result<(), String> {
    let driver = match shown {
        Shown::Discovering { trouble, .. } => {
            return Err(trouble.clone().unwrap_or_else(|| "looking for the cluster".to_owned()));
        }
        Shown::Driving(driver) => driver,
    };
    let status = driver.leader().status();
    let reason = status.refusal.map(|refusal| refusal.to_string()).or(status.trouble);
    match (status.commit, status.primary) {
        (Some(commit), Some(primary)) if commit >= primary.flush => Ok(()),
        (Some(commit), Some(primary)) => {
            Err(format!("the quorum has committed {commit} of {} the primary had when it was attached", primary.flush))
        }
        _ => Err(reason.unwrap_or_else(|| format!("the proposer is {}", status.state))),
    }
}

/// Sets the gauges that are computed when somebody looks.
fn refresh_gauges(driver: &Driver) {
    let status = driver.leader().status();
    let labels = [("cluster", driver.name().to_owned())];
    let gauge = |name: &'static str, value: f64| metrics::gauge!(name, &labels).set(value);
    let position = |position: Option<Lsn>| position.unwrap_or_default().0 as f64;
    gauge("seawall_protected", if is_protected(&status, &driver.assessment()) { 1.0 } else { 0.0 });
    gauge("seawall_leading", if status.term.is_some() { 1.0 } else { 0.0 });
    gauge("seawall_term", status.term.unwrap_or_default().0 as f64);
    gauge("seawall_commit_lsn", position(status.commit));
    gauge("seawall_received_lsn", position(status.received));
    gauge("seawall_answered_lsn", position(Some(status.answered)));
    for peer in &status.peers {
        let labels = [("cluster", driver.name().to_owned()), ("safekeeper", peer.address.clone())];
        metrics::gauge!("seawall_safekeeper_lag_bytes", &labels).set(peer.lag_bytes.unwrap_or_default() as f64);
        metrics::gauge!("seawall_safekeeper_queue_bytes", &labels).set(peer.queue_bytes as f64);
        let streaming = peer.state == leader::PeerState::Streaming;
        metrics::gauge!("seawall_safekeeper_streaming", &labels).set(if streaming { 1.0 } else { 0.0 });
    }
}
