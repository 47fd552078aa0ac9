//! Values that are written into JSON as their own text: LSNs, segment sizes and the like.

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};
use std::fmt::Display;
use std::str::FromStr;

/// The value's text.
pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Reads the text back.
pub(crate) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}
