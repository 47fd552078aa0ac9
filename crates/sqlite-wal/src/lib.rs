//! The format of a SQLite WAL: header, frames, checksum chain, commit boundaries.
