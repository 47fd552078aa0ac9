//! The walproposer binary.
