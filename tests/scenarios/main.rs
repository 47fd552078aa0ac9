//! All scenarios, in one binary. A file per guarantee.

mod archive;
mod authentication;
mod backup;
mod catch_up;
mod commit_needs_a_majority;
mod disaster;
mod disks_may_be_lost;
mod failover;
mod init;
mod leaving;
mod members;
mod older_copy;
mod one_writer;
mod parts_may_crash;
mod pg_versions;
mod readers;
mod refusals;
mod restore;
mod sqlite;
mod sqlite_commands;
mod status;
mod unprotected;
mod up;
mod up_primary;
mod wal_shapes;
