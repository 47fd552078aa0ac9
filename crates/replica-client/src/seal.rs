//! Small JSON objects that prove themselves: `{"crc32c":"<8 hex>","content":<JSON>}` and a line end.
//!
//! It stays JSON that people and other programs read; a flipped byte anywhere in it is noticed all the same. The checksum is
//! CRC-32C of the content's text as it stands.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

const BEGIN: &[u8] = b"{\"crc32c\":\"";
const MIDDLE: &[u8] = b"\",\"content\":";
const END: &[u8] = b"}\n";

/// Seals JSON text.
pub(crate) fn seal(content: &[u8]) -> Bytes {
    let sum = format!("{:08x}", crc32c::crc32c(content));
    Bytes::from([BEGIN, sum.as_bytes(), MIDDLE, content, END].concat())
}

/// The content of a sealed object, or why it is none.
pub(crate) fn unseal(object: &[u8]) -> Result<&[u8], &'static str> {
    let rest = object.strip_prefix(BEGIN).ok_or("it does not begin as one")?;
    let (sum, rest) = rest.split_at_checked(8).ok_or("it is too short")?;
    let rest = rest.strip_prefix(MIDDLE).ok_or("it does not begin as one")?;
    let content = rest.strip_suffix(END).ok_or("it does not end as one")?;
    let right = format!("{:08x}", crc32c::crc32c(content));
    if right.as_bytes() == sum { Ok(content) } else { Err("its checksum does not match: it is damaged") }
}

/// Seals a value.
pub(crate) fn to_sealed(value: &impl Serialize) -> Result<Bytes, Error> {
    let text = serde_json::to_vec(value).map_err(|error| Error::Usage(error.to_string()))?;
    Ok(seal(&text))
}

/// Reads a sealed value; `key` and `what` are for the error.
pub(crate) fn from_sealed<T: DeserializeOwned>(key: &str, what: &'static str, object: &[u8]) -> Result<T, Error> {
    let bad = |reason: String| Error::Content { key: key.to_owned(), what, reason };
    let content = unseal(object).map_err(|reason| bad(reason.to_owned()))?;
    serde_json::from_slice(content).map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sealed = seal(br#"{"parent":"0123456789abcdef","switch":"0/3063B90"}"#);
        assert_eq!(unseal(&sealed).unwrap(), br#"{"parent":"0123456789abcdef","switch":"0/3063B90"}"#);
        assert!(serde_json::from_slice::<serde_json::Value>(&sealed).is_ok());
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut damaged = sealed.to_vec();
                damaged[at] ^= 1 << bit;
                assert!(unseal(&damaged).is_err(), "byte {at} bit {bit}");
            }
            assert!(unseal(&sealed[..at]).is_err());
        }
    }
}
