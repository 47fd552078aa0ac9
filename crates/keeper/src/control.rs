//! The bytes inside a control file: an [`AcceptorState`], little-endian.
//!
//! `wal-storage` frames them with magic, length and checksum; this file says what they mean. Layout of version 2, in order
//! (a *text* is u32 length and that many UTF-8 bytes, in the form the type prints):
//!
//! | field | type |
//! |---|---|
//! | version | u32 = 2 |
//! | tenant id, timeline id | 16 bytes each |
//! | name | text |
//! | membership | text |
//! | term | u64 |
//! | term history | text |
//! | path | text, empty while the log is empty |
//! | system id | u64 |
//! | segment size | u32 |
//! | PostgreSQL version | u32 |
//! | log start, commit LSN, floor | u64 each |
//! | cutting to | u64, 0 = no cut under way |
//! | damaged below | u64, 0 = whole |
//! | history file of the path's last TLI | text, empty if there is none |
//! | fence | text, empty if none stands |
//! | fence token | text, empty if none stands |
//!
//! Version 1 ends with "damaged below" and is read; what it lacks is empty. Bytes after the last field are an error. A version
//! this build does not know is refused, never guessed.

use consensus::{AcceptorState, Cutting, Fence, ServerInfo};
use lsn::{ClusterId, Lsn, SystemId, Term};

const VERSION: u32 = 2;
/// The oldest version that is read.
const OLDEST_VERSION: u32 = 1;

/// Bytes that are not a control record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Written by another version.
    #[error(
        "the control record has version {0}, this build knows {OLDEST_VERSION} to {VERSION}: run the version that wrote it, or a newer one"
    )]
    Version(u32),
    /// It ends too early, goes on too long, or a field cannot be read.
    #[error("the control record is damaged at its field {0:?}")]
    Field(&'static str),
}

/// The bytes for a state.
pub fn encode(state: &AcceptorState) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&state.cluster.tenant);
    out.extend_from_slice(&state.cluster.timeline);
    put_text(&mut out, &state.name);
    put_text(&mut out, &state.membership.to_string());
    put_u64(&mut out, state.term.0);
    put_text(&mut out, &state.history.to_string());
    put_text(&mut out, &state.path.as_ref().map(ToString::to_string).unwrap_or_default());
    put_u64(&mut out, state.server.system_id.0);
    out.extend_from_slice(&state.server.segment_size.to_le_bytes());
    out.extend_from_slice(&state.server.pg_version.to_le_bytes());
    let cutting = state.cutting.map_or(Lsn::INVALID, |cutting| cutting.to);
    for lsn in [state.log_start, state.commit, state.floor, cutting, state.damaged_below] {
        put_u64(&mut out, lsn.0);
    }
    put_text(&mut out, &state.tli_history);
    put_text(&mut out, &state.fence.as_ref().map(|fence| fence.line.to_string()).unwrap_or_default());
    put_text(&mut out, &state.fence.as_ref().map(|fence| fence.token.to_string()).unwrap_or_default());
    out
}

/// The state in these bytes.
pub fn decode(bytes: &[u8]) -> Result<AcceptorState, ControlError> {
    let mut input = Input(bytes);
    let version = input.u32("version")?;
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(ControlError::Version(version));
    }
    let cluster = ClusterId { tenant: input.array("tenant id")?, timeline: input.array("timeline id")? };
    let name = input.text("name")?.to_owned();
    let membership = input.parsed("membership")?;
    let term = Term(input.u64("term")?);
    let history = input.parsed("term history")?;
    let path = match input.text("path")? {
        "" => None,
        text => Some(text.parse().map_err(|_| ControlError::Field("path"))?),
    };
    let server = ServerInfo {
        system_id: SystemId(input.u64("system id")?),
        segment_size: input.u32("segment size")?,
        pg_version: input.u32("PostgreSQL version")?,
    };
    let log_start = input.lsn("log start")?;
    let commit = input.lsn("commit LSN")?;
    let floor = input.lsn("floor")?;
    let cutting = input.lsn("cutting to")?;
    let damaged_below = input.lsn("damaged below")?;
    let (tli_history, fence) = if version == 1 { (String::new(), None) } else { input.later()? };
    if !input.0.is_empty() {
        return Err(ControlError::Field("end"));
    }
    let cutting = cutting.is_valid().then_some(Cutting { to: cutting });
    Ok(AcceptorState {
        cluster,
        name,
        membership,
        term,
        history,
        path,
        tli_history,
        server,
        log_start,
        commit,
        floor,
        cutting,
        damaged_below,
        fence,
    })
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ControlError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(ControlError::Field(field))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, ControlError> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, ControlError> {
        self.array(field).map(u64::from_le_bytes)
    }

    fn lsn(&mut self, field: &'static str) -> Result<Lsn, ControlError> {
        self.u64(field).map(Lsn)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, ControlError> {
        let length = self.u32(field)? as usize;
        let (head, rest) = self.0.split_at_checked(length).ok_or(ControlError::Field(field))?;
        self.0 = rest;
        std::str::from_utf8(head).map_err(|_| ControlError::Field(field))
    }

    /// What version 2 added.
    fn later(&mut self) -> Result<(String, Option<Fence>), ControlError> {
        let tli_history = self.text("history file")?.to_owned();
        let (line, token) = (self.text("fence")?, self.text("fence token")?);
        if line.is_empty() {
            return Ok((tli_history, None));
        }
        let line = line.parse().map_err(|_| ControlError::Field("fence"))?;
        let token = token.parse().map_err(|_| ControlError::Field("fence token"))?;
        Ok((tli_history, Some(Fence { line, token })))
    }

    fn parsed<T: std::str::FromStr>(&mut self, field: &'static str) -> Result<T, ControlError> {
        self.text(field)?.parse().map_err(|_| ControlError::Field(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::Membership;
    use proptest::prelude::*;

    fn sample(name: &str, numbers: [u64; 6], cutting: bool, path: bool) -> AcceptorState {
        let cluster = ClusterId { tenant: [1; 16], timeline: [2; 16] };
        let membership: Membership =
            "1/0/1:01010101010101010101010101010101@sk1:5454;2:02020202020202020202020202020202@sk2:5454"
                .parse()
                .unwrap();
        let server = ServerInfo { system_id: SystemId(numbers[0]), segment_size: 1 << 24, pg_version: 150_018 };
        let mut state = AcceptorState::new(cluster, name.to_owned(), membership, server);
        state.term = Term(numbers[1]);
        state.history = "1:0/1000000,3:0/1600000".parse().unwrap();
        state.path = path.then(|| "1:0/0:0;2:0/3063B90:8A0C44F1".parse().unwrap());
        state.log_start = Lsn(numbers[2]);
        state.commit = Lsn(numbers[3]);
        state.floor = Lsn(numbers[4]);
        state.cutting = cutting.then_some(Cutting { to: Lsn(numbers[5] | 1) });
        if path {
            state.tli_history = "1\t0/3063B90\tno recovery target specified\n".to_owned();
            let line = "7 0/5000028 120000 1:0/0:0;2:0/3063B90:8A0C44F1".parse().unwrap();
            state.fence = Some(Fence { line, token: consensus::FenceToken([9; 16]) });
        }
        state
    }

    #[test]
    fn truncated_or_longer_records_are_refused() {
        let bytes = encode(&sample("orders", [7, 3, 1, 2, 3, 4], true, true));
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode(&longer), Err(ControlError::Field("end")));
        let mut other = bytes;
        other[0] = 9;
        assert_eq!(decode(&other), Err(ControlError::Version(9)));
    }

    #[test]
    fn version_1_is_read() {
        let state = sample("orders", [7, 3, 1, 2, 3, 4], true, false);
        let mut bytes = encode(&state);
        bytes.truncate(bytes.len() - 12);
        bytes[0] = 1;
        assert_eq!(decode(&bytes).unwrap(), state);
    }

    proptest! {
        #[test]
        fn round_trip(name in "[a-z]{0,20}", numbers: [u64; 6], cutting: bool, path: bool) {
            let state = sample(&name, numbers, cutting, path);
            prop_assert_eq!(decode(&encode(&state)).unwrap(), state);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
