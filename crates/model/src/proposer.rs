//! One proposer: a production [`Campaign`] or [`Leadership`], and what it knows of each safekeeper.

use consensus::{Campaign, Leadership, Membership, SessionId, Vote};
use lsn::{Path, Term};
use std::hash::{DefaultHasher, Hash, Hasher};

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Role {
    Idle,
    Campaigning(Campaign),
    Leading(Leadership),
}

/// A safekeeper as a proposer sees it.
#[derive(Clone, PartialEq, Hash, Debug, Default)]
pub(crate) struct Link {
    pub(crate) session: Option<SessionId>,
    /// Its vote on this session, with its log and path while they may be needed.
    pub(crate) vote: Option<Vote>,
    pub(crate) log: Vec<u8>,
    pub(crate) path: Option<Path>,
    /// The vote was counted.
    pub(crate) counted: bool,
    /// How many bytes of the leader's log it was sent, since its Elected message.
    pub(crate) sent: Option<usize>,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Proposer {
    pub(crate) role: Role,
    /// The server it is connected to, where there are servers.
    pub(crate) server: usize,
    /// What its sessions say.
    pub(crate) path: Path,
    /// The log it leads with, where there are no servers.
    pub(crate) log: Vec<u8>,
    /// It only completes the quorum's log.
    pub(crate) completes: bool,
    /// It has made a record in this term.
    pub(crate) made: bool,
    /// By safekeeper.
    pub(crate) links: Vec<Link>,
    /// What it knows of each safekeeper, as a number.
    pub(crate) columns: Vec<u64>,
    /// The rest of it, as a number.
    pub(crate) whole: u64,
}

impl Proposer {
    pub(crate) fn idle(nodes: usize, path: Path) -> Proposer {
        let mut proposer = Proposer {
            role: Role::Idle,
            server: 0,
            path,
            log: Vec::new(),
            completes: false,
            made: false,
            links: vec![Link::default(); nodes],
            columns: Vec::new(),
            whole: 0,
        };
        proposer.review();
        proposer
    }

    /// The term it asks for or leads in, and the record it counts by.
    pub(crate) fn counting(&self) -> Option<(Term, &Membership)> {
        match &self.role {
            Role::Idle => None,
            Role::Campaigning(campaign) => Some((campaign.term(), campaign.membership())),
            Role::Leading(leadership) => Some((leadership.term(), leadership.membership())),
        }
    }

    pub(crate) fn leadership(&self) -> Option<&Leadership> {
        if let Role::Leading(leadership) = &self.role { Some(leadership) } else { None }
    }

    /// Computes anew what tells it from others.
    pub(crate) fn review(&mut self) {
        let column = |(node, link): (usize, &Link)| {
            let mut hasher = DefaultHasher::new();
            let vote = link.vote.as_ref().map(|vote| (vote.flush, &vote.history));
            (link.session.is_some(), vote, &link.log, &link.path, link.counted, link.sent).hash(&mut hasher);
            let number = crate::node::member(node).node;
            self.leadership().and_then(|leadership| leadership.flush_of(number)).hash(&mut hasher);
            hasher.finish()
        };
        let columns = self.links.iter().enumerate().map(column).collect();
        let mut hasher = DefaultHasher::new();
        std::mem::discriminant(&self.role).hash(&mut hasher);
        if let Some((term, membership)) = self.counting() {
            (term, membership, &self.path, self.server, self.completes, self.made).hash(&mut hasher);
        }
        if let Some(leadership) = self.leadership() {
            (leadership.start(), leadership.history(), leadership.commit(), &self.log).hash(&mut hasher);
        }
        self.columns = columns;
        self.whole = hasher.finish();
    }
}
