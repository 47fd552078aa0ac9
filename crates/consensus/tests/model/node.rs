//! One safekeeper: an [`Acceptor`] that may be down, its disk, and what it has told others so far.

use crate::disk::{Disk, FIRST, index};
use crate::rng::Rng;
use consensus::{Acceptor, AcceptorState, Identity, Member, Membership, ServerInfo, Standing, TermHistory};
use lsn::{ClusterId, DiskId, Lsn, NodeId, Path, SystemId, Term};

pub(crate) const CLUSTER: ClusterId = ClusterId { tenant: [1; 16], timeline: [2; 16] };
pub(crate) const SERVER: ServerInfo =
    ServerInfo { system_id: SystemId(7), segment_size: FIRST as u32, pg_version: 150_018 };

/// The record of a cluster of `count` safekeepers, numbered from 1.
pub(crate) fn record(count: usize) -> Membership {
    let member =
        |node: u64| Member { node: NodeId(node), disk: DiskId([node as u8; 16]), host: format!("sk{node}"), port: 1 };
    let record = Membership::new(1, Term(0), (1..=count as u64).map(member).collect(), None);
    record.unwrap_or_else(|error| panic!("{count} safekeepers make no record: {error}"))
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) disk: Disk,
    /// `None` while it is down.
    pub(crate) acceptor: Option<Acceptor>,
    /// Its directory was emptied: it has another disk id now.
    pub(crate) emptied: bool,
    /// Its disk may forget what was durable.
    pub(crate) forgetful: bool,
    /// What the Elected message under way announced, for a mutant.
    pub(crate) announced: Option<(TermHistory, Path)>,
    /// What it held before it was emptied or forgot.
    pub(crate) lost: Vec<Vec<u8>>,
    /// Highest term in any message it sent.
    pub(crate) said_term: Term,
    /// Highest commit LSN in any acknowledgement.
    pub(crate) said_commit: Lsn,
    /// Highest flush LSN acknowledged or told in a vote since the last cut.
    pub(crate) said_flush: Lsn,
    /// Term and commit LSN in memory after the last step of this life.
    pub(crate) last_seen: (Term, Lsn),
}

impl Node {
    pub(crate) fn new(number: usize, membership: &Membership) -> Node {
        let identity = Identity { node: NodeId(number as u64), disk: DiskId([number as u8; 16]) };
        let state = AcceptorState::new(CLUSTER, "model".into(), membership.clone(), ServerInfo::default());
        let mut node = Node {
            identity,
            disk: Disk::new(state),
            acceptor: None,
            emptied: false,
            forgetful: false,
            announced: None,
            lost: Vec::new(),
            said_term: Term(0),
            said_commit: Lsn::INVALID,
            said_flush: Lsn::INVALID,
            last_seen: (Term(0), Lsn::INVALID),
        };
        node.start();
        node
    }

    /// Comes up from its disk, which must still hold everything it has ever said.
    pub(crate) fn start(&mut self) {
        if let Some(cutting) = self.disk.control.cutting {
            self.said_flush = self.said_flush.min(cutting.to);
        }
        let end = self.disk.recover();
        let control = self.disk.control.clone();
        assert!(control.term >= self.said_term, "term {} was told, {} is on disk", self.said_term, control.term);
        assert!(
            control.commit >= self.said_commit,
            "commit {} was told, {} is on disk",
            self.said_commit,
            control.commit
        );
        let acceptor = Acceptor::new(self.identity, control, end);
        if !self.forgetful {
            assert_ne!(acceptor.standing(), Standing::Damaged, "a crash without loss looks like damage at {end}");
            assert!(end >= self.said_flush, "flush {} was told, {end} is on disk", self.said_flush);
        }
        self.last_seen = (acceptor.state().term, acceptor.commit());
        self.acceptor = Some(acceptor);
    }

    /// Whether it has anything to do of this kind: commands, a persist, a sync to start, one to end, a cut.
    pub(crate) fn is_due(&self, duty: usize) -> bool {
        let disk = &self.disk;
        self.acceptor.is_some()
            && match duty {
                0 => true,
                1 => disk.persisting.is_some(),
                2 => !disk.is_syncing() && disk.written > disk.synced,
                3 => disk.is_syncing(),
                _ => disk.cutting.is_some(),
            }
    }

    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        self.acceptor = None;
        self.disk.crash(rng);
    }

    /// After a crash: the directory is gone.
    pub(crate) fn empty(&mut self, membership: &Membership) {
        self.remember_loss();
        self.emptied = true;
        self.identity.disk = DiskId([100 + self.identity.node.0 as u8; 16]);
        let state = AcceptorState::new(CLUSTER, "model".into(), membership.clone(), ServerInfo::default());
        self.disk = Disk::new(state);
        (self.said_term, self.said_commit, self.said_flush) = (Term(0), Lsn::INVALID, Lsn::INVALID);
    }

    /// After a crash: the disk forgot some of what lies below the floor.
    pub(crate) fn forget(&mut self, rng: &mut Rng) {
        let below = index(self.disk.control.floor.0);
        if below > 0 && self.disk.control.cutting.is_none() {
            self.remember_loss();
            self.forgetful = true;
            self.disk.lose(FIRST + rng.below(below) as u64);
        }
    }

    fn remember_loss(&mut self) {
        let synced = self.disk.log(self.disk.synced).to_vec();
        self.lost.push(synced);
    }

    /// Its path up to its end, as a look would show it.
    pub(crate) fn path(&self) -> Option<Path> {
        let acceptor = self.acceptor.as_ref()?;
        acceptor.state().path.as_ref().map(|path| path.cut(acceptor.flush()))
    }

    /// Whether these bytes, from the log's first, are durable here, or were until the disk broke its promise.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        let synced = self.disk.log(self.disk.synced);
        synced.starts_with(bytes) || self.lost.iter().any(|lost| lost.starts_with(bytes))
    }
}
