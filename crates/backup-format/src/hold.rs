//! [`Hold`]: a note in a replica that somebody is using a snapshot, and that nothing it needs may be deleted.
//!
//! A running restore puts one before it fetches anything and renews it; so does a backup before its snapshot exists. Whoever deletes
//! honours it until it expires. Clocks of several machines meet here, so a holder renews early and a deleter waits long.

use crate::snapshot::text;
use jiff::Timestamp;
use lsn::Lsn;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a hold lasts without being renewed; renew every minute or so.
pub const HOLD_LIFE: Duration = Duration::from_secs(15 * 60);
/// The version that is written, and the highest that is read.
const VERSION: u32 = 1;
/// Longest hold that is read.
const MAX_BYTES: usize = 64 << 10;

/// What must stay, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Layout of this object.
    pub version: u32,
    /// What for: `restore`, `validate`, `backup`.
    pub purpose: String,
    /// Who holds it, told apart from everybody else: host, process, something random.
    pub holder: String,
    /// The generation, 16 hexadecimal digits.
    pub generation: String,
    /// The snapshot that begins here stays, and all WAL from its segment on.
    #[serde(with = "text")]
    pub from: Lsn,
    /// By the holder's clock.
    pub expires: Timestamp,
}

/// Bytes that are not a hold. A deleter must take such an object for one that holds everything.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Far longer than any.
    #[error("the hold has {0} bytes, more than the 65536 that are read")]
    TooLong(usize),
    /// Not the JSON it should be.
    #[error("the hold cannot be read")]
    Json(#[from] serde_json::Error),
    /// Written by something newer.
    #[error("the hold is of version {0}, this program reads up to 1")]
    Version(u32),
}

impl Hold {
    /// A hold that begins to run now.
    pub fn new(purpose: &str, holder: &str, generation: String, from: Lsn, now: Timestamp) -> Hold {
        // A clock at the end of time is no clock; such a hold lasts for ever.
        let expires = now.checked_add(HOLD_LIFE).unwrap_or(Timestamp::MAX);
        Hold { version: VERSION, purpose: purpose.to_owned(), holder: holder.to_owned(), generation, from, expires }
    }

    /// Reads one.
    pub fn from_json(bytes: &[u8]) -> Result<Hold, HoldError> {
        if bytes.len() > MAX_BYTES {
            return Err(HoldError::TooLong(bytes.len()));
        }
        let hold: Hold = serde_json::from_slice(bytes)?;
        if hold.version == 0 || hold.version > VERSION {
            return Err(HoldError::Version(hold.version));
        }
        Ok(hold)
    }

    /// Its bytes.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and a number: nothing that serialisation could refuse.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was() {
        let now: Timestamp = "2024-05-01T10:00:00Z".parse().unwrap();
        let hold = Hold::new("restore", "host:1:x", "0000000000000001".into(), Lsn(0x200_0028), now);
        assert_eq!(hold.expires.to_string(), "2024-05-01T10:15:00Z");
        assert_eq!(Hold::from_json(&hold.to_json()).unwrap(), hold);
        let newer = Hold { version: 2, ..hold };
        assert!(matches!(Hold::from_json(&newer.to_json()), Err(HoldError::Version(2))));
        assert!(Hold::from_json(b"{}").is_err());
        assert!(matches!(Hold::from_json(&[b' '; MAX_BYTES + 1]), Err(HoldError::TooLong(_))));
        Hold::new("backup", "", String::new(), Lsn(0), Timestamp::MAX);
    }
}
