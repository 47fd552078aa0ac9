//! The safekeeper binary.
