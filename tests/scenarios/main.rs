//! All scenarios, in one binary. A file per guarantee.

mod commit_needs_a_majority;
mod parts_may_crash;
