//! Leaders against real acceptors, on a virtual clock.

mod election_test;
mod harness;
mod members_test;
mod parts;
mod random_test;
mod refusal_test;
mod relay_test;
mod takeover_test;
