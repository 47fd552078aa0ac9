//! Asking the peers: one task per place, one question a second.
//!
//! The first question on a connection asks for everything, the next only for what changed since: change numbers belong to a run
//! of the peer, and a connection cannot outlive it.

use super::{POLL_EVERY, Place};
use crate::registry::Registry;
use consensus::Identity;
use pg_conn::{Connection, StartupExtra};
use pq_proto::command::Command;
use quorum_proto::{LogStatusRow, PeerColumns};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// A peer may take this long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Most places asked at a time; records and configuration name far fewer.
const PLACES_MAX: usize = 1024;

/// Keeps one task per place, and lets keepers compare themselves.
pub(super) async fn run(registry: Rc<Registry>) {
    let mut tasks: BTreeMap<Place, AbortHandle> = BTreeMap::new();
    let mut known = None;
    let mut tick = tokio::time::interval(POLL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // Records change rarely; with thousands of clusters they are not read every second.
        let records = registry.records_version();
        if known != Some(records) {
            known = Some(records);
            let wanted = places(&registry);
            tasks.retain(|place, task| {
                let keep = wanted.contains(place);
                if !keep {
                    task.abort();
                    registry.peers().asked.borrow_mut().remove(place);
                }
                keep
            });
            for place in wanted {
                let registry = &registry;
                tasks.entry(place).or_insert_with_key(|place| {
                    tokio::task::spawn_local(ask_for_ever(Rc::clone(registry), place.clone())).abort_handle()
                });
            }
        }
        registry.peers().compare(&registry);
        registry.peers().teach(&registry);
    }
}

/// Where peers may be: the addresses in membership records and those of the configuration.
fn places(registry: &Registry) -> BTreeSet<Place> {
    let own = registry.identity().node;
    let mut places: BTreeSet<Place> = registry.options().peers.iter().filter_map(|peer| place(peer)).collect();
    for cluster in registry.all() {
        let membership = cluster.membership();
        places.extend(
            membership
                .all_members()
                .filter(|member| member.node != own)
                .map(|member| (member.host.clone(), member.port)),
        );
    }
    while places.len() > PLACES_MAX {
        places.pop_last();
    }
    places
}

fn place(text: &str) -> Option<Place> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

async fn ask_for_ever(registry: Rc<Registry>, place: Place) {
    loop {
        match converse(&registry, &place).await {
            // Our own address stands in every record's list under another name, perhaps.
            Ok(()) => return,
            Err(problem) => registry.peers().fail(&place, problem),
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Asks over one connection until it breaks. `Ok` if it is this very safekeeper.
async fn converse(registry: &Rc<Registry>, place: &Place) -> Result<(), String> {
    let mut connection = connect(place, &registry.options().outgoing).await?;
    let who = identity(&connection)?;
    if who == registry.identity() {
        return Ok(());
    }
    if who.node == registry.identity().node {
        return Err(format!("it calls itself safekeeper {} as well, with disk {}", who.node, who.disk));
    }
    let peers = registry.peers();
    let mut since = None;
    loop {
        let asked = Instant::now();
        let rows = ask(&mut connection, since).await?;
        if let Some((stranger, _)) = rows.iter().find(|(row, _)| (row.node, row.disk) != (who.node, who.disk)) {
            return Err(format!("it greets as safekeeper {} and answers as {}", who.node, stranger.node));
        }
        peers.take(registry, place, who, &rows);
        if since.is_none() {
            peers.tell_keepers(registry, who, &rows);
        }
        let newest = rows.iter().map(|(row, _)| row.version).max().unwrap_or(0);
        since = Some(since.unwrap_or(0).max(newest));
        tokio::time::sleep_until(asked + POLL_EVERY).await;
    }
}

async fn connect((host, port): &Place, outgoing: &auth::Outgoing) -> Result<Connection, String> {
    let text = format!("host='{host}' port={port} user=safekeeper connect_timeout=5");
    let info = crate::pull::shown(&text, host, outgoing)?;
    let extra = StartupExtra { application_name: Some("safekeeper".to_owned()), ..StartupExtra::default() };
    pg_conn::connect(&info, &extra).await.map_err(|error| error.to_string())
}

fn identity(connection: &Connection) -> Result<Identity, String> {
    let parameter = |name: &str| connection.parameters().get(name);
    let node = parameter("seawall_node_id").and_then(|id| id.parse().ok());
    let disk = parameter("seawall_disk_id").and_then(|id| id.parse().ok());
    let (node, disk) = node.zip(disk).ok_or("it is not one of our safekeepers: it does not say its node and disk")?;
    Ok(Identity { node, disk })
}

async fn ask(connection: &mut Connection, since: Option<u64>) -> Result<Vec<(LogStatusRow, PeerColumns)>, String> {
    let query = Command::LogStatus { since }.to_string();
    let rows = tokio::time::timeout(ANSWER_WITHIN, connection.simple_query(&query))
        .await
        .map_err(|_| format!("it was silent for {ANSWER_WITHIN:?}"))?
        .map_err(|error| error.to_string())?;
    let read = |row: &pg_conn::Row| {
        let columns = PeerColumns::from_row(|column| row.get(column))?;
        Ok((LogStatusRow::from_row(|column| row.get(column))?, columns))
    };
    rows.iter().map(read).collect::<Result<_, quorum_proto::Error>>().map_err(|error| error.to_string())
}
