//! Feedback of a replica that follows a safekeeper, as foreign software sends it: a count, then per pair a key ending in a zero
//! byte, an i32 length and the value; big-endian in every protocol version.
//!
//! Seawall passes these bytes on unread; parsing them proves that a broken peer does not poison its neighbour.

use crate::wire::Fields;
use crate::{Error, ProtoVersion};
use bytes::{Buf, Bytes};
use lsn::Lsn;

/// Longest key in bytes; those in use have 21.
const MAX_KEY_BYTES: usize = 255;

/// What a replica says about itself; `None` for what it leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicaFeedback {
    /// Logical size of the data in bytes.
    pub size: Option<u64>,
    /// Last position received.
    pub received: Option<Lsn>,
    /// Durable on the replica's own disk below this.
    pub disk_consistent: Option<Lsn>,
    /// Durable in remote storage below this.
    pub remote_consistent: Option<Lsn>,
    /// When it was sent, microseconds since 2000-01-01 UTC.
    pub reply_time: Option<i64>,
    /// Number of the shard.
    pub shard: Option<u32>,
    /// Whether it found damage.
    pub corruption_detected: Option<bool>,
}

impl ReplicaFeedback {
    /// Checks and reads the bytes; unknown keys are skipped, known ones must have their length, nothing may follow.
    pub fn parse(bytes: &Bytes) -> Result<Self, Error> {
        let mut fields = Fields::new(ProtoVersion::V3, bytes.clone());
        fields.name("replica feedback");
        let mut feedback = ReplicaFeedback::default();
        for _ in 0..fields.u8("number of pairs")? {
            let key = fields.text("key", MAX_KEY_BYTES)?;
            // A negative length becomes one that cannot be there.
            let length = fields.u32("length of a value")? as usize;
            let mut value = fields.slice("value", length)?;
            let wrong = |_| fields.range("length of a value");
            match key.as_str() {
                "current_timeline_size" => feedback.size = Some(value.try_get_u64().map_err(wrong)?),
                "ps_writelsn" | "last_received_lsn" => {
                    feedback.received = Some(Lsn(value.try_get_u64().map_err(wrong)?))
                }
                "ps_flushlsn" | "disk_consistent_lsn" => {
                    feedback.disk_consistent = Some(Lsn(value.try_get_u64().map_err(wrong)?));
                }
                "ps_applylsn" | "remote_consistent_lsn" => {
                    feedback.remote_consistent = Some(Lsn(value.try_get_u64().map_err(wrong)?));
                }
                "ps_replytime" | "replytime" => feedback.reply_time = Some(value.try_get_i64().map_err(wrong)?),
                "shard_number" => feedback.shard = Some(value.try_get_u32().map_err(wrong)?),
                "corruption_detected" => feedback.corruption_detected = Some(value.try_get_u8().map_err(wrong)? != 0),
                _ => value.clear(),
            }
            if !value.is_empty() {
                return Err(fields.range("length of a value"));
            }
        }
        fields.end()?;
        Ok(feedback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    fn pairs(pairs: &[(&str, &[u8])]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(pairs.len() as u8);
        for (key, value) in pairs {
            out.put_slice(key.as_bytes());
            out.put_u8(0);
            out.put_i32(value.len() as i32);
            out.put_slice(value);
        }
        out.freeze()
    }

    #[test]
    fn the_five_usual_keys_take_132_bytes() {
        let eight = 7u64.to_be_bytes();
        let bytes = pairs(&[
            ("current_timeline_size", &eight),
            ("ps_writelsn", &eight),
            ("ps_flushlsn", &eight),
            ("ps_applylsn", &eight),
            ("ps_replytime", &eight),
        ]);
        assert_eq!(bytes.len(), 132);
        let feedback = ReplicaFeedback::parse(&bytes).unwrap();
        assert_eq!((feedback.received, feedback.reply_time, feedback.shard), (Some(Lsn(7)), Some(7), None));
    }

    #[test]
    fn unknown_keys_are_skipped_and_wrong_lengths_refused() {
        let bytes = pairs(&[("new", b"anything"), ("shard_number", &[0, 0, 0, 3]), ("replytime", &[0xff; 8])]);
        let feedback = ReplicaFeedback::parse(&bytes).unwrap();
        assert_eq!((feedback.shard, feedback.reply_time), (Some(3), Some(-1)));
        for wrong in [&b"1234567"[..], b"123456789", b""] {
            assert!(ReplicaFeedback::parse(&pairs(&[("ps_flushlsn", wrong)])).is_err());
        }
        let mut trailing = BytesMut::from(&bytes[..]);
        trailing.put_u8(0);
        assert!(matches!(ReplicaFeedback::parse(&trailing.freeze()), Err(Error::Trailing { bytes: 1, .. })));
        assert!(ReplicaFeedback::parse(&Bytes::from_static(b"\x01k\0\xff\xff\xff\xff")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>) {
            let _ = ReplicaFeedback::parse(&Bytes::from(bytes));
        }
    }
}
