//! What a [`Leader`](crate::Leader) wants done.

use crate::Peer;
use bytes::Bytes;
use consensus::{AppendRequest, Introduction, Membership, ProposerMessage};
use lsn::{Lsn, Term, Tli};

/// Something for the driver to do. Commands are carried out in the order in which they are taken out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Connect to the primary and ask it for [`PrimaryFacts`](crate::PrimaryFacts); answered by
    /// [`Leader::handle_primary_checked`](crate::Leader::handle_primary_checked) or
    /// [`Leader::handle_primary_failed`](crate::Leader::handle_primary_failed).
    CheckPrimary,
    /// Ask this safekeeper for LOG_STATUS; answered by [`Leader::handle_look`](crate::Leader::handle_look) with the same round,
    /// within a few seconds whatever happens.
    Look {
        /// The safekeeper.
        peer: Peer,
        /// Number of the look; answers to earlier ones are ignored.
        round: u64,
    },
    /// Create our slot so that it holds WAL at once; answered by
    /// [`Leader::handle_slot_created`](crate::Leader::handle_slot_created).
    CreateSlot,
    /// Start the slot's stream; answered by [`Leader::handle_stream_started`](crate::Leader::handle_stream_started) or
    /// [`Leader::handle_stream_refused`](crate::Leader::handle_stream_refused).
    StartStream {
        /// First byte.
        from: Lsn,
        /// The TLI to ask for. If it is not the primary's own, the stream goes on with the next when it ends.
        tli: Tli,
    },
    /// Close all connections to the primary. Nothing of them may be handed in afterwards.
    ClosePrimary {
        /// Why, for the log.
        reason: String,
    },
    /// Read a range of a safekeeper's log, guarded by `term`, and hand it to
    /// [`Leader::handle_donor_bytes`](crate::Leader::handle_donor_bytes).
    Compare {
        /// The safekeeper.
        peer: Peer,
        /// Its current term.
        term: Term,
        /// First byte.
        from: Lsn,
        /// First byte after the range. More may be handed in; it is ignored.
        to: Lsn,
    },
    /// End the read begun last. Nothing of it may be handed in afterwards.
    StopCompare,
    /// Open a push session; answered by [`Leader::handle_push_opened`](crate::Leader::handle_push_opened) or
    /// [`Leader::handle_push_closed`](crate::Leader::handle_push_closed).
    OpenPush {
        /// The safekeeper.
        peer: Peer,
        /// What we say of ourselves, for the session's options.
        introduction: Introduction,
    },
    /// Bring this safekeeper a membership record; answered by
    /// [`Leader::handle_record_taken`](crate::Leader::handle_record_taken) within a few seconds whatever happens.
    TakeRecord {
        /// The safekeeper.
        peer: Peer,
        /// The record, disks and term included.
        record: Membership,
    },
    /// Close a push session, or stop opening it. Nothing of it may be handed in afterwards.
    ClosePush {
        /// The safekeeper.
        peer: Peer,
    },
    /// Report this to the primary at once, and again whenever it asks.
    AnswerPrimary {
        /// Write position.
        write: Lsn,
        /// Flush position: what releases a COMMIT.
        flush: Lsn,
        /// Apply position.
        apply: Lsn,
    },
    /// Send hot-standby feedback to the primary; zeros withdraw it.
    Feedback {
        /// Oldest transaction a standby needs, epoch in the upper half; 0 = none.
        xmin: u64,
        /// Oldest transaction needed in catalogs, likewise.
        catalog_xmin: u64,
    },
}

/// A message for a safekeeper.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// Anything but an append with WAL.
    Message(ProposerMessage),
    /// An append whose WAL lies in several pieces, so that it can be sent from where it was received.
    Append {
        /// The append; its `wal` is empty, its bounds are those of the pieces.
        request: AppendRequest,
        /// The WAL, in order, at most [`consensus::MAX_APPEND_BYTES`] in all.
        wal: Vec<Bytes>,
    },
}
