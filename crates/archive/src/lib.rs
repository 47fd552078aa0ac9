//! A source's replica over time: sync, snapshots, retention, validation.
