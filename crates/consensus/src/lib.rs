//! The quorum's rules as pure state machines.
//!
//! [`Acceptor`] is what a safekeeper promises, [`Campaign`] how a proposer wins a term, [`Leadership`] what it may call
//! committed. Events go in through `handle_*`, commands come out of `poll_command`; there is no I/O, no clock, no chance
//! and no runtime in here, so the same code runs in production and under a test that picks every interleaving.
//!
//! The one rule that everything else serves: **a message that promises durability cannot be taken out before the durability
//! it promises**. Votes and acknowledgements are queued under the persist ticket and the WAL position they depend on, and
//! only [`Acceptor::handle_persisted`] and [`Acceptor::handle_flushed`] release them.

mod acceptor;
mod campaign;
mod change;
mod faults;
mod fence;
mod history;
mod leadership;
mod membership;
mod message;
mod refusal;
mod state;

pub use acceptor::{Acceptor, AcceptorCommand, MembersLog, RecordRefusal, SessionId, Standing};
pub use campaign::{Campaign, Decision, Vote};
pub use change::ChangeError;
pub use faults::Fault;
pub use fence::{Fence, FenceError, FenceLine, FenceToken, Introduction};
pub use history::{HistoryError, TermEntry, TermHistory};
pub use leadership::{Leadership, Outcome};
pub use membership::{Member, Membership, MembershipError};
pub use message::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, HotStandbyFeedback, MAX_APPEND_BYTES,
    ProposerElected, ProposerGreeting, ProposerMessage, VoteRequest, VoteResponse,
};
pub use refusal::Refusal;
pub use state::{AcceptorState, Cutting, Identity, ServerInfo};
