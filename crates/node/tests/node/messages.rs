//! Messages of a proposer, byte by byte from the layouts of protocol 2 (little-endian structs) and 3 (big-endian fields), and
//! what a safekeeper answers.

/// Ids of the cluster most tests use: as bytes and as hex digits.
pub(crate) const TENANT: [u8; 16] = [0x1a; 16];
pub(crate) const TIMELINE: [u8; 16] = [0x2b; 16];
pub(crate) const SYSTEM: u64 = 7_000_000_000_000_000_077;
pub(crate) const PG_VERSION: u32 = 150_018;
pub(crate) const SEGMENT: u32 = 1 << 20;

pub(crate) fn hex(id: [u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Joins byte strings.
pub(crate) fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(crate) mod v3 {
    use super::{PG_VERSION, SEGMENT, SYSTEM, TENANT, TIMELINE, hex, joined};

    /// A greeting with an empty membership record.
    pub(crate) fn greeting_of(tenant: [u8; 16], system: u64, segment: u32, pg_version: u32) -> Vec<u8> {
        joined(&[
            b"g",
            hex(tenant).as_bytes(),
            b"\0",
            hex(TIMELINE).as_bytes(),
            b"\0",
            &[0; 12],
            &pg_version.to_be_bytes(),
            &system.to_be_bytes(),
            &segment.to_be_bytes(),
        ])
    }

    pub(crate) fn greeting() -> Vec<u8> {
        let greeting = greeting_of(TENANT, SYSTEM, SEGMENT, PG_VERSION);
        assert_eq!(greeting.len(), 95);
        greeting
    }

    pub(crate) fn vote(generation: u32, term: u64) -> Vec<u8> {
        joined(&[b"v", &generation.to_be_bytes(), &term.to_be_bytes()])
    }

    pub(crate) fn elected(generation: u32, term: u64, start: u64, history: &[(u64, u64)]) -> Vec<u8> {
        let mut message = joined(&[
            b"e",
            &generation.to_be_bytes(),
            &term.to_be_bytes(),
            &start.to_be_bytes(),
            &(history.len() as u32).to_be_bytes(),
        ]);
        for (term, begin) in history {
            message.extend_from_slice(&term.to_be_bytes());
            message.extend_from_slice(&begin.to_be_bytes());
        }
        message
    }

    pub(crate) fn append(generation: u32, term: u64, begin: u64, commit: u64, wal: &[u8]) -> Vec<u8> {
        joined(&[
            b"a",
            &generation.to_be_bytes(),
            &term.to_be_bytes(),
            &begin.to_be_bytes(),
            &(begin + wal.len() as u64).to_be_bytes(),
            &commit.to_be_bytes(),
            &[0; 8],
            wal,
        ])
    }
}

pub(crate) mod v2 {
    use super::{PG_VERSION, SEGMENT, SYSTEM, TENANT, TIMELINE, joined};

    fn tag(letter: u8) -> [u8; 8] {
        u64::from(letter).to_le_bytes()
    }

    pub(crate) fn greeting() -> Vec<u8> {
        let greeting = joined(&[
            &tag(b'g'),
            &2_u32.to_le_bytes(),
            &PG_VERSION.to_le_bytes(),
            &[0; 16],
            &SYSTEM.to_le_bytes(),
            &TIMELINE,
            &TENANT,
            &1_u32.to_le_bytes(),
            &SEGMENT.to_le_bytes(),
        ]);
        assert_eq!(greeting.len(), 80);
        greeting
    }

    pub(crate) fn vote(term: u64) -> Vec<u8> {
        joined(&[&tag(b'v'), &term.to_le_bytes(), &[0; 16]])
    }

    pub(crate) fn elected(term: u64, start: u64, history: &[(u64, u64)]) -> Vec<u8> {
        let mut message =
            joined(&[&tag(b'e'), &term.to_le_bytes(), &start.to_le_bytes(), &(history.len() as u32).to_le_bytes()]);
        for (term, begin) in history {
            message.extend_from_slice(&term.to_le_bytes());
            message.extend_from_slice(&begin.to_le_bytes());
        }
        message.extend_from_slice(&history[0].1.to_le_bytes());
        message
    }

    pub(crate) fn append(term: u64, begin: u64, commit: u64, wal: &[u8]) -> Vec<u8> {
        let end = begin + wal.len() as u64;
        joined(&[
            &tag(b'a'),
            &term.to_le_bytes(),
            &[0; 8],
            &begin.to_le_bytes(),
            &end.to_le_bytes(),
            &commit.to_le_bytes(),
            &[0; 8],
            &[0; 16],
            wal,
        ])
    }
}

/// What an append response says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) generation: u32,
    pub(crate) term: u64,
    pub(crate) flush: u64,
    pub(crate) commit: u64,
}

/// Reads an append response of protocol 3.
pub(crate) fn acknowledged(payload: &[u8]) -> Acknowledged {
    assert_eq!((payload[0], payload.len()), (b'a', 53), "an append response without feedback");
    let u64_at = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().unwrap());
    let generation = u32::from_be_bytes(payload[1..5].try_into().unwrap());
    Acknowledged { generation, term: u64_at(5), flush: u64_at(13), commit: u64_at(21) }
}

/// Reads an append response of protocol 2.
pub(crate) fn acknowledged_v2(payload: &[u8]) -> Acknowledged {
    assert_eq!((payload[0], payload.len()), (b'a', 56), "an append response without feedback");
    let u64_at = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
    assert_eq!(u64_at(0), u64::from(b'a'));
    Acknowledged { generation: 0, term: u64_at(8), flush: u64_at(16), commit: u64_at(24) }
}
