//! A live SQLite database as a source: checkpoint control, shadow WAL, continuity.
