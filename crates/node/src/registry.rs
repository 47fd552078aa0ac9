//! The clusters of this node, by ids and by name.

use crate::cluster::{Cluster, ClusterContext};
use crate::data_dir::DataDir;
use crate::options::NodeOptions;
use consensus::{AcceptorState, Identity, Membership, ServerInfo};
use lsn::ClusterId;
use pq_proto::SqlState;
use pq_proto::backend::Report;
use quorum_proto::{InitCluster, PushOptions};
use std::cell::RefCell;
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
}

/// All clusters of a node.
#[derive(Debug)]
pub(crate) struct Registry {
    options: NodeOptions,
    context: ClusterContext,
    clusters: RefCell<BTreeMap<ClusterId, Rc<Cluster>>>,
    /// Clusters whose files cannot be used, with the reason: they take no part, and nothing may be made in their place.
    broken: RefCell<BTreeMap<ClusterId, String>>,
}

impl Registry {
    /// Opens every cluster in the data directory. One that cannot be opened does not keep the others down.
    pub(crate) async fn open(
        options: NodeOptions,
        context: ClusterContext,
    ) -> Result<Rc<Registry>, crate::DataDirError> {
        let registry = Registry {
            options,
            context,
            clusters: RefCell::new(BTreeMap::new()),
            broken: RefCell::new(BTreeMap::new()),
        };
        for id in registry.data_dir().clusters()? {
            match registry.data_dir().load_cluster(id) {
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

    /// Makes a cluster. Its directory and record are durable when this returns; creation is rare and small enough to be done
    /// in place.
    fn create(&self, state: AcceptorState) -> Result<Rc<Cluster>, Report> {
        let id = state.cluster;
        self.data_dir()
            .create_cluster(&state)
            .map_err(|error| Report::error(SqlState::INTERNAL_ERROR, error.to_string()))?;
        tracing::info!(cluster = %id, name = %state.name, membership = %state.membership, "cluster made");
        let cluster = Cluster::empty(&self.context, state, self.options.max_wal);
        self.clusters.borrow_mut().insert(id, Rc::clone(&cluster));
        Ok(cluster)
    }
}
