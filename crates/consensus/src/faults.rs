//! [`Fault`]: rules that a test may break on purpose, to see that something notices.
//!
//! Nothing is broken unless the feature `faults` is on *and* a test calls `break_rule`; without the feature the questions asked here
//! are constants. A fault stands where the rule stands, so that what a test breaks is what ships.

/// A rule that is not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// A vote leaves before its term is durable.
    VoteBeforePersist,
    /// A vote leaves before the WAL received before it is durable.
    VoteBeforeSync,
    /// A term that was promised is promised again.
    VoteTwice,
    /// A vote tells the whole stored history, which may describe WAL that is not here.
    HistoryNotCut,
    /// WAL is acknowledged once it is taken in.
    AcknowledgeBeforeSync,
    /// Whoever led goes on appending after another term was promised.
    DeposedAppends,
    /// WAL is taken between start-up and the first Elected message.
    AppendUnelected,
    /// A log is cut one byte below the commit LSN, where there is one.
    CutBelowCommit,
    /// History and path are persisted before the bytes are cut.
    HistoryBeforeCut,
    /// The commit LSN follows the leader's, whatever is here.
    CommitBeyondFlush,
    /// A message that counts by another membership record is taken.
    AnyGeneration,
    /// A record replaces a newer one.
    OlderRecord,
    /// A disk that the record does not name votes.
    ForeignVoter,
    /// A disk that lost what it promised votes.
    DamagedVoter,
    /// A fence keeps nobody from being elected.
    FenceIgnored,
    /// A TLI is shown once it is here.
    SwitchShownEarly,
    /// The donor is the longest log, whatever its terms.
    DonorByLsn,
    /// The donor is the first vote, whether the primary contains its log or not.
    DonorUncompared,
    /// A candidate wins with any vote.
    MinorityElects,
    /// Positions below the term's start count.
    NoTermStart,
    /// What was acknowledged before a disk lost it goes on counting.
    LostWalCounts,
}

/// What is broken: nothing, in everything that ships.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Broken {
    #[cfg(feature = "faults")]
    pub(crate) rule: Option<Fault>,
}

impl Broken {
    /// Whether this rule is not kept.
    #[cfg(feature = "faults")]
    pub(crate) fn is(self, fault: Fault) -> bool {
        self.rule == Some(fault)
    }

    /// Whether this rule is not kept: it is.
    #[cfg(not(feature = "faults"))]
    pub(crate) fn is(self, _: Fault) -> bool {
        false
    }
}

#[cfg(feature = "faults")]
impl crate::Acceptor {
    /// From now on this rule is not kept.
    pub fn break_rule(&mut self, fault: Fault) {
        self.broken.rule = Some(fault);
    }
}

#[cfg(feature = "faults")]
impl crate::Campaign {
    /// From now on this rule is not kept.
    pub fn break_rule(&mut self, fault: Fault) {
        self.broken.rule = Some(fault);
    }
}

#[cfg(feature = "faults")]
impl crate::Leadership {
    /// From now on this rule is not kept.
    pub fn break_rule(&mut self, fault: Fault) {
        self.broken.rule = Some(fault);
    }
}
