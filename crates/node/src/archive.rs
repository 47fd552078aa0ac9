//! The archive as this process has part in it: every cluster's committed WAL is shown to an [`Archiver`] on a thread of its own, which
//! stores it while this safekeeper is the uploader.
//!
//! The commit path is not touched: a task on the commit thread looks at the clusters a few times a second, and only what moved crosses
//! over. Who uploads is decided here, from the peers that answer (`archive::wal::uploader`).

mod local;
mod old;
mod thread;

use crate::cluster::{Cluster, Extent};
use crate::registry::Registry;
use ::archive::wal::{
    Archiver, ArchiverOptions, Candidate, CommittedLog, CommittedWal, OldWal, WalStatus, is_uploader,
};
use local::LocalWal;
use lsn::{ClusterId, NodeId};
use old::{known, tell};
use replica_client::{Archive, Codec, CodecError, Destination, DestinationError};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thread::ArchiveThread;
use tokio::sync::watch;

/// How often the clusters are looked at; a sync interval shorter than that is as long.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A safekeeper that has just started has not heard of the others yet and does not take itself for the only one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where WAL is archived, and how.
#[derive(Clone, Debug, Default)]
pub struct ArchiveOptions {
    /// The URL for clusters that have none of their own.
    pub url: Option<String>,
    /// URLs of clusters by their names.
    pub urls: BTreeMap<String, String>,
    /// How long committed WAL may wait for more before it is stored.
    pub interval: Duration,
    /// age recipients to encrypt for; plain if there are none.
    pub recipients: Vec<String>,
}

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Its URL is no place.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// A recipient is none.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The place cannot be opened.
    #[error("cannot open the archive {url}: {error}")]
    Open {
        /// As it was given, without secrets.
        url: String,
        /// Why.
        error: Box<replica_client::Error>,
    },
    /// The system gives no thread.
    #[error("cannot start the thread of the archive: {0}")]
    Thread(#[from] io::Error),
}

impl ArchiveError {
    /// Whether what was asked for can never work.
    pub fn is_usage(&self) -> bool {
        matches!(self, ArchiveError::Destination(_) | ArchiveError::Codec(_))
    }
}

/// All clusters' archiving.
#[derive(Debug)]
pub(crate) struct Archiving {
    interval: Duration,
    default: Option<Place>,
    by_name: BTreeMap<String, Place>,
    thread: Option<ArchiveThread>,
    started: Instant,
    clusters: RefCell<BTreeMap<ClusterId, Entry>>,
    /// Whether what is archived can be read here: without recipients it is not encrypted.
    is_readable: bool,
    /// How far below its own oldest byte others may still have WAL.
    look_back: u64,
    old: RefCell<BTreeMap<ClusterId, Arc<OldWal>>>,
}

/// An archive that was opened.
#[derive(Clone, Debug)]
struct Place {
    url: String,
    archive: Archive,
}

#[derive(Debug)]
struct Entry {
    wal: LocalWal,
    feed: watch::Sender<CommittedWal>,
    status: watch::Receiver<WalStatus>,
    /// What the feed was made of.
    seen: Extent,
    uploader: Option<NodeId>,
}

impl Archiving {
    /// Opens the archives; nothing is asked of them yet.
    ///
    /// `look_back`: how far below its own oldest byte others may still have WAL.
    pub(crate) fn open(options: &ArchiveOptions, look_back: u64) -> Result<Rc<Archiving>, ArchiveError> {
        let codec = Codec::new::<_, &str>(&options.recipients, &[])?;
        let place = |url: &String| -> Result<Place, ArchiveError> {
            let destination = Destination::parse(url)?;
            let shown = destination.to_string();
            let store = destination
                .open()
                .map_err(|error| ArchiveError::Open { url: shown.clone(), error: Box::new(error) })?;
            Ok(Place { url: shown, archive: Archive::new(store, codec.clone()) })
        };
        let default = options.url.as_ref().map(place).transpose()?;
        let by_name: Result<BTreeMap<String, Place>, ArchiveError> =
            options.urls.iter().map(|(name, url)| Ok((name.clone(), place(url)?))).collect();
        let by_name = by_name?;
        let thread = match default.is_some() || !by_name.is_empty() {
            true => Some(ArchiveThread::start()?),
            false => None,
        };
        let (interval, started) = (options.interval, Instant::now());
        let is_readable = codec.can_decrypt();
        let (clusters, old) = (RefCell::default(), RefCell::default());
        let archiving =
            Archiving { interval, default, by_name, thread, started, clusters, is_readable, look_back, old };
        Ok(Rc::new(archiving))
    }

    fn place(&self, cluster: &Cluster) -> Option<&Place> {
        self.place_of(cluster.name())
    }

    fn place_of(&self, cluster: &str) -> Option<&Place> {
        self.by_name.get(cluster).or(self.default.as_ref())
    }

    /// Shows the archive what commits, for ever; nothing to do without one.
    pub(crate) async fn run(self: Rc<Archiving>, registry: Rc<Registry>) {
        let Some(thread) = self.thread.clone() else { return };
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            for cluster in registry.all() {
                self.look_at(&registry, &cluster, &thread);
            }
            self.clusters.borrow_mut().retain(|id, _| registry.get(*id).is_some());
            self.tidy_up(&registry);
        }
    }

    fn look_at(&self, registry: &Registry, cluster: &Rc<Cluster>, thread: &ArchiveThread) {
        let Some(place) = self.place(cluster) else { return };
        let mut clusters = self.clusters.borrow_mut();
        if let std::collections::btree_map::Entry::Vacant(free) = clusters.entry(cluster.id()) {
            free.insert(begin(place, self.interval, self.look_back, thread));
        }
        let Some(entry) = clusters.get_mut(&cluster.id()) else { return };
        let extent = cluster.extent();
        if entry.feed.borrow().log.is_none() || extent != entry.seen {
            entry.seen = extent;
            entry.wal.set(cluster.file_reader());
            let known = entry.feed.borrow().log.as_ref().map(|log| log.histories.clone()).unwrap_or_default();
            let (log, counts) =
                cluster.committed_log(&known).map_or((None, false), |(log, counts)| (Some(log), counts));
            entry.feed.send_if_modified(|feed| {
                let changed = feed.log != log;
                feed.log = log;
                feed.uploads &= counts;
                changed
            });
        }
        let uploads = self.choose(registry, cluster, entry);
        entry.feed.send_if_modified(|feed| std::mem::replace(&mut feed.uploads, uploads) != uploads);
        let own = known(&entry.status.borrow());
        drop(clusters);
        tell(registry, cluster, own);
    }

    /// Who uploads this cluster's WAL; true if it is this safekeeper.
    fn choose(&self, registry: &Registry, cluster: &Cluster, entry: &mut Entry) -> bool {
        let feed = entry.feed.borrow();
        let Some(CommittedLog { era, end, .. }) = &feed.log else { return false };
        if self.started.elapsed() < PATIENCE {
            return false;
        }
        let own = Candidate { node: registry.identity().node, commit: *end };
        let live = registry.peers().live(cluster.id());
        let others: Vec<Candidate> = live
            .iter()
            .map(|peer| Candidate { node: peer.node, commit: peer.log.commit.min(peer.log.flush) })
            .collect();
        let all: Vec<Candidate> = others.iter().copied().chain([own]).collect();
        entry.uploader = ::archive::wal::uploader(all, era.segment_size);
        is_uploader(own, &others, era.segment_size) && cluster.counts()
    }

    /// As `GET /v1/status` shows it; null without an archive.
    pub(crate) fn view(&self, cluster: &Cluster) -> Value {
        let Some(place) = self.place(cluster) else { return Value::Null };
        let clusters = self.clusters.borrow();
        let Some(entry) = clusters.get(&cluster.id()) else { return json!({ "url": place.url }) };
        let status = entry.status.borrow();
        let known = status.archived.is_valid();
        json!({
            "url": place.url,
            "uploader": entry.uploader.map(|node| node.0),
            "uploading": status.uploading,
            "archived_lsn": known.then(|| status.archived.to_string()),
            "lag_bytes": known.then(|| entry.seen.end.bytes_since(status.archived)),
            "problem": status.problem,
            "failing_seconds": status.failing_since.map(|at| at.elapsed().as_secs()),
            "lost": status.lost.as_ref().map(|lost| format!("{}..{}", lost.start, lost.end)),
        })
    }

    /// Sets the gauges of a cluster's archive, where this safekeeper is the one who knows.
    pub(crate) fn refresh_gauges(&self, cluster: &Cluster) {
        let clusters = self.clusters.borrow();
        let Some(entry) = clusters.get(&cluster.id()) else { return };
        let status = entry.status.borrow();
        let labels = [("cluster", cluster.name().to_owned())];
        let gauge = |name: &'static str, value: f64| metrics::gauge!(name, &labels).set(value);
        gauge("seawall_archive_uploading", if status.uploading { 1.0 } else { 0.0 });
        if status.archived.is_valid() {
            gauge("seawall_archive_lsn", status.archived.0 as f64);
            gauge("seawall_archive_lag_bytes", entry.seen.end.bytes_since(status.archived) as f64);
        }
        gauge("seawall_archive_failing_seconds", status.failing_since.map_or(0.0, |at| at.elapsed().as_secs_f64()));
    }
}

fn begin(place: &Place, interval: Duration, look_back: u64, thread: &ArchiveThread) -> Entry {
    let wal = LocalWal::default();
    let (feed, fed) = watch::channel(CommittedWal::default());
    let (told, status) = watch::channel(WalStatus::default());
    let options = ArchiverOptions { interval: interval.max(LOOK_EVERY), look_back, ..ArchiverOptions::default() };
    let archiver = Archiver::new(place.archive.clone(), options, Arc::new(wal.clone()), fed, told);
    thread.run(archiver.run());
    Entry { wal, feed, status, seen: Extent::default(), uploader: None }
}
