//! What can be wrong with WAL, and where.
//!
//! Whether a fault is the ordinary end of a log or damage is not known here: whoever scans judges that.

use lsn::{Lsn, SystemId, Tli};

/// Why bytes are not WAL, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The scanner was told to begin where no record or page can begin.
    #[error("no WAL scan can begin at {at}: it is {why}")]
    Start {
        /// The position asked for.
        at: Lsn,
        /// What it is instead.
        why: &'static str,
    },
    /// A page header does not fit its place.
    #[error("the WAL page at {at} {what}")]
    Page {
        /// The page's first byte.
        at: Lsn,
        /// What is wrong with it.
        what: PageFault,
    },
    /// A record is not one.
    #[error("the WAL record at {at} {what}")]
    Record {
        /// The record's first byte.
        at: Lsn,
        /// What is wrong with it.
        what: RecordFault,
    },
    /// More bytes than there are positions.
    #[error("WAL behind {at} would leave the 64-bit range")]
    Range {
        /// Where the bytes would have begun.
        at: Lsn,
    },
}

impl ScanError {
    /// Where the fault lies: a page's, record's or slice's first byte.
    pub fn at(&self) -> Lsn {
        match self {
            ScanError::Start { at, .. }
            | ScanError::Page { at, .. }
            | ScanError::Record { at, .. }
            | ScanError::Range { at } => *at,
        }
    }
}

/// What is wrong with a page header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    /// Another magic than expected, or one of no known PostgreSQL.
    #[error("has magic {0:04X}, which is not that of this log's PostgreSQL version")]
    Magic(u16),
    /// Flag bits that do not exist or contradict each other.
    #[error("has impossible flags {0:04X}")]
    Flags(u16),
    /// Header bytes that PostgreSQL leaves zero are not.
    #[error("has a header whose padding is not zero")]
    Padding,
    /// A long header inside a segment, or a short one at its start.
    #[error("has a header of the wrong length for its place in the segment")]
    HeaderLength,
    /// Written for another place: a stale page of a recycled file.
    #[error("says it belongs at {0}")]
    Address(Lsn),
    /// A TLI below that of an earlier page.
    #[error("is on TLI {found}, but the log is on TLI {last} already")]
    TliBackwards {
        /// What the page says.
        found: Tli,
        /// What was seen before, or demanded.
        last: Tli,
    },
    /// Another cluster's WAL.
    #[error("is of the cluster with system identifier {0}, not of this one")]
    SystemId(SystemId),
    /// Another segment size than this log has.
    #[error("says that segments have {0} bytes, which is not this log's segment size")]
    SegmentSize(u32),
    /// A server compiled with another WAL page size.
    #[error("says that pages have {0} bytes; only 8192 is supported")]
    PageSize(u32),
    /// The page continues a record, but the record before is complete.
    #[error("continues a record, but no record is open")]
    UnexpectedContinuation,
    /// The page does not continue the open record.
    #[error("does not continue the record that began before it")]
    MissingContinuation,
    /// The page continues a record of another length.
    #[error("continues a record with {found} bytes to come, but {expected} are missing")]
    ContinuationLength {
        /// What the page says.
        found: u32,
        /// What the open record needs.
        expected: u32,
    },
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Shorter than a header (0 where the log ends) or longer than a record can be.
    #[error("has the impossible length {0}")]
    Length(u32),
    /// The link to the previous record is wrong.
    #[error("follows a record at {found}, but the one before it is at {expected}")]
    PrevLink {
        /// What the record says.
        found: Lsn,
        /// Where the previous record really began.
        expected: Lsn,
    },
    /// The first record's link does not point backwards.
    #[error("follows a record at {0}, which does not lie before it")]
    PrevForward(Lsn),
    /// The checksum does not match.
    #[error("has checksum {found:08X} but its bytes have {computed:08X}")]
    Checksum {
        /// What the record says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The bytes that round the record up to 8 are not zero.
    #[error("is followed by padding that is not zero")]
    Padding,
    /// Something other than zeros stands between XLOG_SWITCH and the segment's end.
    #[error("is a segment switch, but the byte at {0} behind it is not zero")]
    AfterSwitch(Lsn),
}
