//! All scenarios, in one binary. A file per guarantee.

mod catch_up;
mod commit_needs_a_majority;
mod disks_may_be_lost;
mod leaving;
mod one_writer;
mod parts_may_crash;
mod refusals;
mod unprotected;
mod wal_shapes;
