//! What scenarios share: the set-up most of them start from, rounds of crashes, and a look at the bytes the safekeepers keep.
//!
//! Nothing here knows how the parts do their work: a stage is a real primary, safekeepers and a proposer as processes, told by
//! command line and settings what an operator would tell them, and judged by status, log and files.

mod failovers;
mod logs;
mod patroni;
mod replica;
mod rounds;
pub mod sqlite;
mod stage;
mod uploader;

pub use failovers::{Failover, Failovers, Times};
pub use logs::{Logs, lsn, lsn_of};
pub use patroni::patroni;
pub use replica::{ArchivedWal, Replica};
pub use rounds::{Outcome, Round, Rounds};
pub use stage::{CLUSTER, SOON, Stage, replayed};
pub use uploader::{SEGMENT, UploaderOutcome, UploaderRound, UploaderRounds, archive_views, archived, verify_archive};
