//! The clusters of this node, by ids and by name.

use crate::cluster::{Cluster, ClusterContext};
use crate::data_dir::DataDir;
use crate::options::NodeOptions;
use crate::peers::Peers;
use consensus::{AcceptorState, Identity, Membership, ServerInfo};
use lsn::ClusterId;
use pq_proto::SqlState;
use pq_proto::backend::Report;
use quorum_proto::{InitCluster, PushOptions};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Which cluster a connection chose in its start-up options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    name: Option<String>,
    ids: Option<ClusterId>,
}

impl Choice {
    /// From the `options` of a start-up message; other settings are none of our business.
    pub(crate) fn from_options(options: &[(String, String)]) -> Result<Choice, String> {
        let value =
            |keys: &[&str]| options.iter().rev().find(|(key, _)| keys.contains(&key.as_str())).map(|(_, value)| value);
        let name = value(&["cluster"]).cloned();
        let ids = match (value(&["tenant_id", "ztenantid"]), value(&["timeline_id", "ztimelineid"])) {
            (Some(tenant), Some(timeline)) => {
                Some(ClusterId::from_hex(tenant, timeline).map_err(|error| error.to_string())?)
            }
            (None, None) => None,
            (Some(_), None) => return Err("tenant_id needs timeline_id beside it".to_owned()),
            (None, Some(_)) => return Err("timeline_id needs tenant_id beside it".to_owned()),
        };
        Ok(Choice { name, ids })
    }

    /// Narrows it to what a grant is good for.
    pub(crate) fn limit_to(&mut self, grant: &auth::Grant) -> Result<(), auth::Refused> {
        if let Some(name) = &self.name {
            grant.admits_cluster(name)?;
        }
        self.name = grant.cluster().map(str::to_owned).or(self.name.take());
        Ok(())
    }
}

/// All clusters of a node.
#[derive(Debug)]
pub(crate) struct Registry {
    options: NodeOptions,
    context: ClusterContext,
    clusters: RefCell<BTreeMap<ClusterId, Rc<Cluster>>>,
    /// Clusters whose files cannot be used, with the reason: they take no part, and nothing may be made in their place.
    broken: RefCell<BTreeMap<ClusterId, String>>,
    peers: Rc<Peers>,
    /// Counts changes of the set of membership records.
    records_version: Cell<u64>,
}

impl Registry {
    /// Opens every cluster in the data directory. One that cannot be opened does not keep the others down.
    pub(crate) async fn open(
        options: NodeOptions,
        context: ClusterContext,
        peers: Rc<Peers>,
    ) -> Result<Rc<Registry>, crate::DataDirError> {
        let registry = Registry {
            options,
            context,
            clusters: RefCell::new(BTreeMap::new()),
            broken: RefCell::new(BTreeMap::new()),
            peers,
            records_version: Cell::new(1),
        };
        for id in registry.data_dir().clusters()? {
            match registry.data_dir().load_cluster(id) {
                Ok(Some(state)) if registry.is_buried(&state)? => {
                    tracing::info!(cluster = %id, "the removal of this cluster is finished");
                    registry.data_dir().remove_cluster(id, state.membership.generation)?;
                }
                Ok(Some(state)) => registry.start(state).await,
                Ok(None) => tracing::info!(cluster = %id, "a creation that was cut off is ignored"),
                Err(reason) => registry.give_up(id, reason),
            }
        }
        Ok(Rc::new(registry))
    }

    fn data_dir(&self) -> &DataDir {
        &self.context.data_dir
    }

    async fn start(&self, state: AcceptorState) {
        let id = state.cluster;
        match Cluster::open(&self.context, state, self.options.max_wal).await {
            Ok(cluster) => {
                cluster.hold_votes();
                self.clusters.borrow_mut().insert(id, cluster);
            }
            Err(reason) => self.give_up(id, reason),
        }
    }

    fn give_up(&self, id: ClusterId, reason: String) {
        tracing::error!(cluster = %id, "cluster cannot be opened and takes no part: {reason}");
        self.broken.borrow_mut().insert(id, reason);
    }

    /// Which safekeeper this is.
    pub(crate) fn identity(&self) -> Identity {
        self.data_dir().identity
    }

    /// Its options.
    pub(crate) fn options(&self) -> &NodeOptions {
        &self.options
    }

    /// Free bytes where the data directory is.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        self.data_dir().disk.free_space(&self.data_dir().root).ok()
    }

    /// What is known of the other safekeepers.
    pub(crate) fn peers(&self) -> &Rc<Peers> {
        &self.peers
    }

    /// Where WAL is archived.
    pub(crate) fn archiving(&self) -> &Rc<crate::archive::Archiving> {
        &self.context.archiving
    }

    /// The cluster with these ids.
    pub(crate) fn get(&self, id: ClusterId) -> Option<Rc<Cluster>> {
        self.clusters.borrow().get(&id).cloned()
    }

    /// Changes whenever a membership record is added, replaced or removed.
    pub(crate) fn records_version(&self) -> u64 {
        self.records_version.get()
    }

    /// A membership record has changed.
    pub(crate) fn note_records(&self) {
        self.records_version.set(self.records_version.get() + 1);
    }

    /// All clusters, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Rc<Cluster>> {
        self.clusters.borrow().values().cloned().collect()
    }

    /// Clusters that cannot be opened.
    pub(crate) fn broken(&self) -> Vec<(ClusterId, String)> {
        self.broken.borrow().iter().map(|(id, reason)| (*id, reason.clone())).collect()
    }

    /// The clusters a choice admits: all of them if nothing was chosen.
    pub(crate) fn matching(&self, choice: &Choice) -> Vec<Rc<Cluster>> {
        let admits = |cluster: &Rc<Cluster>| {
            choice.ids.is_none_or(|ids| cluster.id() == ids)
                && choice.name.as_deref().is_none_or(|name| cluster.name() == name)
        };
        self.all().into_iter().filter(admits).collect()
    }

    /// The one cluster a connection means.
    pub(crate) fn choose(&self, choice: &Choice) -> Result<Rc<Cluster>, Report> {
        let mut matching = self.matching(choice);
        if let Some((_, reason)) = self.broken().into_iter().find(|(id, _)| choice.ids == Some(*id)) {
            let text = format!("this cluster cannot be opened on safekeeper {}: {reason}", self.identity().node);
            return Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text));
        }
        match (matching.pop(), matching.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(_), false) => {
                let text = "this safekeeper keeps several clusters: choose one with options='-c cluster=NAME'";
                Err(Report::error(SqlState::INVALID_PARAMETER_VALUE, text))
            }
            (None, _) => {
                let what = match (&choice.name, choice.ids) {
                    (Some(name), _) => format!("cluster {name:?}"),
                    (None, Some(ids)) => format!("cluster {ids}"),
                    (None, None) => "any cluster".to_owned(),
                };
                let text = format!("safekeeper {} does not have {what}", self.identity().node);
                Err(Report::error(SqlState::INVALID_CATALOG_NAME, text).with_hint("seawall init makes a cluster known"))
            }
        }
    }

    /// The cluster a proposer wants to push to. If the operator allowed it, a foreign proposer's session makes the cluster.
    pub(crate) fn choose_for_push(&self, choice: &Choice, options: &PushOptions) -> Result<Rc<Cluster>, Report> {
        match (self.choose(choice), choice.ids) {
            (Ok(cluster), _) => Ok(cluster),
            (Err(report), Some(id)) if report.code == SqlState::INVALID_CATALOG_NAME => {
                if !options.allow_creation || !self.options.allow_foreign_creation {
                    return Err(report);
                }
                // Generation 0: no membership record, the proposer counts by its own list.
                let state = AcceptorState::new(id, String::new(), Membership::none(), ServerInfo::default());
                self.create(state)
            }
            (Err(report), _) => Err(report),
        }
    }

    /// INIT_CLUSTER: the same record again is success, another one under the same name or ids is refused.
    pub(crate) fn init(&self, init: &InitCluster) -> Result<(), Report> {
        let duplicate = |text: String| Err(Report::error(SqlState::DUPLICATE_OBJECT, text));
        if let Some((_, reason)) = self.broken().into_iter().find(|(id, _)| *id == init.cluster) {
            return duplicate(format!("a cluster with these ids is here and cannot be opened: {reason}"));
        }
        for cluster in self.all() {
            let (same_name, same_ids) = (cluster.name() == init.name, cluster.id() == init.cluster);
            if same_name && same_ids && cluster.membership() == init.membership {
                return Ok(());
            }
            if same_name || same_ids {
                return duplicate(format!(
                    "safekeeper {} already has cluster {:?} with another record",
                    self.identity().node,
                    cluster.name()
                ));
            }
        }
        let Identity { node, disk } = self.identity();
        if !init.membership.includes(node, disk) {
            let text = format!("the membership record does not name safekeeper {node} with its disk {disk}");
            return Err(Report::error(SqlState::INVALID_PARAMETER_VALUE, text));
        }
        let state = AcceptorState::new(init.cluster, init.name.clone(), init.membership.clone(), ServerInfo::default());
        self.create(state).map(|_| ())
    }

    /// Whether this cluster was removed here, with this record or a later one.
    fn is_buried(&self, state: &AcceptorState) -> Result<bool, crate::DataDirError> {
        let buried = self.data_dir().tombstone(state.cluster)?;
        Ok(buried.is_some_and(|generation| generation >= state.membership.generation))
    }

    /// MEMBERS (join): makes a cluster of which this disk is no member yet, so that it can learn. If it is here already, it takes the
    /// record if it is newer.
    pub(crate) async fn join(&self, init: &InitCluster) -> Result<(), Report> {
        let refused = |text: String| Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
        if let Some(cluster) = self.get(init.cluster) {
            let newer = init.membership.generation > cluster.membership().generation;
            return match newer {
                true => cluster.take_record(init.membership.clone()).await.map(|_| ()).map_err(refused),
                false => Ok(()),
            };
        }
        let Identity { node, disk } = self.identity();
        if init.membership.includes(node, disk) {
            let text =
                format!("the record already counts safekeeper {node} with this disk, which must not begin empty");
            return Err(refused(text));
        }
        let taken =
            self.all().iter().any(|cluster| cluster.name() == init.name && cluster.id().tenant != init.cluster.tenant);
        if taken || self.broken.borrow().contains_key(&init.cluster) {
            let text = format!("safekeeper {node} already has another cluster {:?}", init.name);
            return Err(Report::error(SqlState::DUPLICATE_OBJECT, text));
        }
        let state = AcceptorState::new(init.cluster, init.name.clone(), init.membership.clone(), ServerInfo::default());
        let failed = |error: crate::DataDirError| Report::error(SqlState::INTERNAL_ERROR, error.to_string());
        // A learner's record may be as old as the tombstone: it counts for nothing that was promised before.
        let buried = self.data_dir().tombstone(init.cluster).map_err(failed)?;
        if buried.is_none_or(|generation| generation != init.membership.generation) {
            return self.create(state).map(|_| ());
        }
        self.make(state)?;
        self.data_dir().remove_tombstone(init.cluster).map_err(failed)
    }

    /// MEMBERS (rename): an era has ended, and its name is for the next.
    pub(crate) async fn rename(&self, choice: &Choice, name: &str) -> Result<(), Report> {
        let cluster = self.choose(choice)?;
        if self.all().iter().any(|other| other.name() == name && other.id() != cluster.id()) {
            let text = format!("safekeeper {} already has another cluster {name:?}", self.identity().node);
            return Err(Report::error(SqlState::DUPLICATE_OBJECT, text));
        }
        let refused = |text: String| Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
        cluster.rename(name).await.map_err(refused)?;
        self.note_records();
        Ok(())
    }

    /// MEMBERS (drop): removes a cluster of which this disk is no member, and leaves a tombstone.
    pub(crate) async fn drop_cluster(&self, choice: &Choice, generation: u32) -> Result<(), Report> {
        let cluster = self.choose(choice)?;
        let (id, ours) = (cluster.id(), cluster.membership().generation);
        let refused = |text: String| Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
        if cluster.is_member() {
            let node = self.identity().node;
            return Err(refused(format!(
                "safekeeper {node} is a member of this cluster: remove it with `seawall members` first"
            )));
        }
        if ours > generation {
            return Err(refused(format!("the membership record here has generation {ours}, newer than {generation}")));
        }
        self.clusters.borrow_mut().remove(&id);
        self.note_records();
        cluster.end("the cluster is being removed from this safekeeper").await;
        self.data_dir()
            .remove_cluster(id, generation)
            .map_err(|error| Report::error(SqlState::INTERNAL_ERROR, error.to_string()))?;
        tracing::info!(cluster = %id, generation, "cluster removed");
        Ok(())
    }

    /// Makes a cluster. Its directory and record are durable when this returns; creation is rare and small enough to be done
    /// in place.
    fn create(&self, state: AcceptorState) -> Result<Rc<Cluster>, Report> {
        if self.is_buried(&state).map_err(|error| Report::error(SqlState::INTERNAL_ERROR, error.to_string()))? {
            let text = "this cluster was removed from this safekeeper: only a newer membership record brings it back";
            return Err(Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text));
        }
        self.make(state)
    }

    fn make(&self, state: AcceptorState) -> Result<Rc<Cluster>, Report> {
        let id = state.cluster;
        self.data_dir()
            .create_cluster(&state)
            .map_err(|error| Report::error(SqlState::INTERNAL_ERROR, error.to_string()))?;
        tracing::info!(cluster = %id, name = %state.name, membership = %state.membership, "cluster made");
        let cluster = Cluster::empty(&self.context, state, self.options.max_wal);
        self.clusters.borrow_mut().insert(id, Rc::clone(&cluster));
        self.note_records();
        Ok(cluster)
    }
}
