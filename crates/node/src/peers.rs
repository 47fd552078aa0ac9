//! [`Peers`]: what this safekeeper knows of the others.
//!
//! Every other safekeeper that a membership record or the configuration names is asked once a second for LOG_STATUS, over one
//! connection for all clusters together, and answers only with what changed (`poll`). From the answers come a view in memory of
//! every peer's log, and a memory on disk of what each disk has promised (`memory`), which a disk that went back in time is
//! told when it starts.
//!
//! Knows no sockets (they are in `poll`) and decides nothing: keepers judge.

mod memory;
mod poll;

use crate::registry::Registry;
use consensus::Identity;
use lsn::{ClusterId, DiskId, Lsn, NodeId, Term};
use memory::Remembered;
use quorum_proto::{Archived, BootId, LogState, LogStatusRow, Memory, PeerColumns, Promise};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(crate) use memory::MemoryStore;

/// How often a peer is asked.
pub(crate) const POLL_EVERY: Duration = Duration::from_secs(1);
/// A peer that has not answered for this long is not alive.
const ALIVE_FOR: Duration = Duration::from_secs(5);
/// Most clusters kept of one peer: it is not to fill our memory.
const CLUSTERS_MAX: usize = 100_000;

/// Where a peer is asked: host and port.
pub(crate) type Place = (String, u16);

/// One cluster's log on a peer, as it said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerLog {
    pub(crate) state: LogState,
    pub(crate) term: Term,
    pub(crate) flush: Lsn,
    pub(crate) commit: Lsn,
    /// What the archive holds, if it uploads.
    pub(crate) archived: Option<Archived>,
}

/// A peer that answers, as a chooser among safekeepers needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LivePeer {
    pub(crate) node: NodeId,
    pub(crate) disk: DiskId,
    pub(crate) log: PeerLog,
    /// How long ago it answered.
    pub(crate) silent: Duration,
}

/// One place where a peer is asked.
#[derive(Debug, Default)]
struct Asked {
    /// Who answers there.
    who: Option<Identity>,
    heard: Option<Instant>,
    problem: Option<String>,
    logs: BTreeMap<ClusterId, PeerLog>,
    /// Logs of clusters that are learned here, with their first byte.
    lessons: BTreeMap<ClusterId, (LogStatusRow, Lsn)>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Peers {
    own: Identity,
    /// This run of the process.
    boot: BootId,
    asked: RefCell<BTreeMap<Place, Asked>>,
    remembered: RefCell<Remembered>,
    /// Per cluster: the keeper's change number seen last, and the node's that was given for it.
    versions: RefCell<BTreeMap<ClusterId, (u64, u64)>>,
    last_version: Cell<u64>,
}

impl Peers {
    /// Nobody was asked yet; `remembered` is what was kept on disk.
    pub(crate) fn new(own: Identity, remembered: Remembered) -> Rc<Peers> {
        Rc::new(Peers {
            own,
            boot: BootId(rand::random()),
            asked: RefCell::default(),
            remembered: RefCell::new(remembered),
            versions: RefCell::default(),
            last_version: Cell::new(0),
        })
    }

    /// Asks them for ever, beginning at once.
    pub(crate) fn start(registry: &Rc<Registry>, store: MemoryStore) {
        tokio::task::spawn_local(poll::run(Rc::clone(registry)));
        tokio::task::spawn_local(memory::keep(Rc::clone(registry), store));
    }

    /// Writes down what was learned and is not written yet.
    pub(crate) async fn save(registry: &Registry, store: &MemoryStore) {
        memory::save(registry, store).await;
    }

    /// Peers that answer and are members of this cluster, each disk once.
    pub(crate) fn live(&self, cluster: ClusterId) -> Vec<LivePeer> {
        let now = Instant::now();
        let mut found: BTreeMap<NodeId, LivePeer> = BTreeMap::new();
        for asked in self.asked.borrow().values() {
            let (Some(who), Some(heard), Some(log)) = (asked.who, asked.heard, asked.logs.get(&cluster)) else {
                continue;
            };
            let silent = now.saturating_duration_since(heard);
            if silent <= ALIVE_FOR && log.state == LogState::Member {
                found.insert(who.node, LivePeer { node: who.node, disk: who.disk, log: *log, silent });
            }
        }
        found.into_values().collect()
    }

    /// The rows of LOG_STATUS for these clusters that changed after `since`, columns of peers included.
    pub(crate) fn log_status(&self, clusters: &[Rc<crate::cluster::Cluster>], since: Option<u64>) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for cluster in clusters {
            let promise = cluster.promise();
            let version = self.version_of(cluster.id(), cluster.version(), promise.is_some());
            if since.is_some_and(|since| version <= since) {
                continue;
            }
            let row = LogStatusRow { version, ..cluster.log_status() };
            let remembers = self.remembered.borrow().of(cluster.id());
            let columns = PeerColumns {
                boot: Some(self.boot),
                promise,
                oldest: cluster.oldest(),
                archived: cluster.archived(),
                remembers,
            };
            rows.push(row.to_values().into_iter().chain(columns.to_values()).collect());
        }
        rows
    }

    /// The names of the columns of [`Peers::log_status`].
    pub(crate) fn columns() -> Vec<&'static str> {
        LogStatusRow::columns().iter().copied().chain(PeerColumns::COLUMNS).collect()
    }

    /// The node's change number for a cluster: one counter for all clusters, so that one number says what an asker has seen. A row
    /// that could not tell its promise is told again.
    fn version_of(&self, cluster: ClusterId, keeper: u64, tells_promise: bool) -> u64 {
        let mut versions = self.versions.borrow_mut();
        let (seen, given) = versions.entry(cluster).or_default();
        if *seen != keeper || *given == 0 {
            self.last_version.set(self.last_version.get() + 1);
            *given = self.last_version.get();
        }
        *seen = if tells_promise { keeper } else { 0 };
        *given
    }

    /// A peer answered at this place, with these rows.
    fn take(&self, registry: &Registry, place: &Place, who: Identity, rows: &[(LogStatusRow, PeerColumns)]) {
        {
            let mut asked = self.asked.borrow_mut();
            let asked = asked.entry(place.clone()).or_default();
            if asked.who != Some(who) {
                asked.logs.clear();
                asked.lessons.clear();
            }
            (asked.who, asked.heard, asked.problem) = (Some(who), Some(Instant::now()), None);
            for (row, columns) in rows {
                let LogStatusRow { state, term, flush, commit, .. } = *row;
                let log = PeerLog { state, term, flush, commit, archived: columns.archived };
                if asked.logs.len() < CLUSTERS_MAX || asked.logs.contains_key(&row.cluster) {
                    asked.logs.insert(row.cluster, log);
                }
            }
            for (row, columns) in rows {
                let learns = registry.get(row.cluster).is_some_and(|ours| !ours.is_member());
                match columns.oldest.filter(|_| learns) {
                    Some(oldest) => drop(asked.lessons.insert(row.cluster, (row.clone(), oldest))),
                    None => drop(asked.lessons.remove(&row.cluster)),
                }
            }
        }
        for (row, columns) in rows {
            // Only disks that count are remembered: their number is bounded, and nobody else's promise matters.
            let counts =
                || registry.get(row.cluster).is_some_and(|ours| ours.membership().includes(who.node, who.disk));
            if let (Some(boot), Some(promise)) = (columns.boot, columns.promise)
                && !promise.is_empty()
                && counts()
            {
                self.remembered.borrow_mut().observe(row.cluster, who, boot, promise);
            }
        }
    }

    /// Tells every keeper what this peer remembers of it from before this run; a cluster it does not have it remembers nothing of.
    fn tell_keepers(&self, registry: &Registry, who: Identity, rows: &[(LogStatusRow, PeerColumns)]) {
        let mut told: BTreeMap<ClusterId, Promise> = BTreeMap::new();
        for (row, columns) in rows {
            let ours = |memory: &&Memory| (memory.node, memory.disk) == (self.own.node, self.own.disk);
            let before = columns.remembers.iter().filter(ours).map(|memory| memory.before(self.boot));
            told.insert(row.cluster, before.fold(Promise::default(), Promise::join));
        }
        for cluster in registry.all() {
            let promise = told.get(&cluster.id()).copied().unwrap_or_default();
            if cluster.holds_votes() || !promise.is_empty() {
                cluster.handle_remembered(who.node, promise);
            }
        }
    }

    /// This place cannot be asked.
    fn fail(&self, place: &Place, problem: String) {
        let mut asked = self.asked.borrow_mut();
        let asked = asked.entry(place.clone()).or_default();
        if asked.problem.as_deref() != Some(&problem) && asked.heard.is_some() {
            tracing::info!(peer = %format!("{}:{}", place.0, place.1), "a peer cannot be asked: {problem}");
        }
        asked.problem = Some(problem);
        asked.logs.clear();
        asked.lessons.clear();
    }

    /// Lets every learner follow the member that is furthest.
    fn teach(&self, registry: &Registry) {
        let mut best: BTreeMap<ClusterId, (LogStatusRow, Lsn)> = BTreeMap::new();
        for asked in self.asked.borrow().values() {
            for (cluster, lesson) in &asked.lessons {
                let place = |row: &LogStatusRow| (row.term, row.commit);
                if best.get(cluster).is_none_or(|other| place(&other.0) < place(&lesson.0)) {
                    best.insert(*cluster, lesson.clone());
                }
            }
        }
        for (cluster, (row, oldest)) in best {
            if let Some(cluster) = registry.get(cluster) {
                cluster.handle_members_log(&row, oldest);
            }
        }
    }

    /// Lets every keeper compare itself with the best of its peers.
    fn compare(&self, registry: &Registry) {
        let mut best: BTreeMap<ClusterId, Lsn> = BTreeMap::new();
        for asked in self.asked.borrow().values().filter(|asked| asked.problem.is_none()) {
            for (cluster, log) in &asked.logs {
                let commit = best.entry(*cluster).or_default();
                *commit = (*commit).max(log.commit);
            }
        }
        for (cluster, commit) in best {
            if let Some(cluster) = registry.get(cluster) {
                cluster.handle_peers(commit);
            }
        }
    }

    /// As `GET /v1/status` shows them.
    pub(crate) fn view(&self) -> Vec<Value> {
        let now = Instant::now();
        let asked = self.asked.borrow();
        let shown = asked.iter().map(|((host, port), asked)| {
            json!({
                "address": format!("{host}:{port}"),
                "node_id": asked.who.map(|who| who.node.0),
                "disk_id": asked.who.map(|who| who.disk.to_string()),
                "heard_ms": asked.heard.map(|at| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX)),
                "clusters": asked.logs.len(),
                "error": asked.problem,
            })
        });
        shown.collect()
    }
}
