//! The seawall binary.
