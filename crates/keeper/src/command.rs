//! What a keeper asks its driver to do.

use bytes::Bytes;
use consensus::{Member, ServerInfo, SessionId};
use lsn::{Lsn, Path, Term};

/// One START_REPLICATION session served, numbered by the caller; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReaderId(pub u64);

/// Carry these out in the order they come. Completions may come back in any order between different kinds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Write the control file, then call `handle_persisted` with the ticket. At most one is under way.
    PersistControl {
        /// Counts up.
        ticket: u64,
        /// The opaque bytes.
        bytes: Vec<u8>,
    },
    /// Put bytes into the page cache, at once. If there is no space, call `handle_write_refused`.
    Write {
        /// First byte.
        begin: Lsn,
        /// The bytes.
        wal: Bytes,
    },
    /// Sync everything written so far, then call `handle_synced`. At most one is under way.
    Sync,
    /// Remove everything at and above `to`, durably, then call `handle_cut`.
    Cut {
        /// The new end.
        to: Lsn,
        /// The log was empty and begins at `to`, the start of a segment.
        first: bool,
        /// The path the log lies on from now on.
        path: Path,
        /// What is known of the primary; its segment size is valid.
        server: ServerInfo,
    },
    /// Send this payload of one CopyData message to a proposer.
    SendPush {
        /// To whom.
        session: SessionId,
        /// The message's bytes.
        payload: Bytes,
    },
    /// End a proposer's session with this sentence.
    ClosePush {
        /// Whom.
        session: SessionId,
        /// What to tell it.
        reason: String,
    },
    /// Send these wire bytes to a reader: whole messages, in order.
    SendReader {
        /// To whom.
        reader: ReaderId,
        /// Whole messages, or the header of one.
        head: Bytes,
        /// The rest of that message; often empty.
        payload: Bytes,
    },
    /// Read WAL for a reader, then call `handle_read`.
    Read {
        /// For whom.
        reader: ReaderId,
        /// First byte.
        from: Lsn,
        /// At most so many bytes.
        max: usize,
    },
    /// A reader's session is over: flush what was sent and close the connection (or go back to query mode).
    CloseReader {
        /// Whom.
        reader: ReaderId,
        /// Whether the connection can take another command.
        reusable: bool,
    },
    /// Pull WAL from another member that has processed Elected of `term`, and hand it to `handle_pulled`; then call
    /// `handle_pull_ended`.
    Pull {
        /// The leader's term.
        term: Term,
        /// First byte wanted.
        from: Lsn,
        /// First byte not wanted.
        to: Lsn,
        /// Whom to ask.
        members: Vec<Member>,
    },
    /// Call a consumer that sleeps; nothing needs to be told of how it went.
    Call {
        /// What it calls itself.
        name: String,
        /// Where; may hold a password.
        address: String,
    },
    /// Write the record of replication slots down, durably, then call `handle_slots_persisted`. At most one is under way.
    PersistSlots {
        /// Counts up; later ones include what earlier ones held.
        ticket: u64,
        /// The opaque bytes.
        bytes: Vec<u8>,
    },
    /// Whole segments below this position are no longer needed here.
    RemoveBelow(Lsn),
}
