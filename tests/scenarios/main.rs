//! All scenarios, in one binary. A file per guarantee.

mod catch_up;
mod commit_needs_a_majority;
mod disks_may_be_lost;
mod init;
mod leaving;
mod one_writer;
mod parts_may_crash;
mod pg_versions;
mod refusals;
mod status;
mod unprotected;
mod up;
mod up_primary;
mod wal_shapes;
