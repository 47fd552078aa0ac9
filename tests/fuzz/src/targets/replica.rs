//! Object storage: what objects are, and what they are called.

use replica_client::cover::{Assembly, cover};
use replica_client::{Codec, CodecError, Destination, EraName, Generation, Layout};
use std::sync::OnceLock;

/// Nobody's: made for these tests.
const IDENTITY: &str = "AGE-SECRET-KEY-1SPRUKQVG73DWZ650ULMZLH4SE8JVSY4JGNE5K4DX8PALKQLM7K0Q6A650W";

/// What an object may decode to here.
const PLAIN_BYTES: u64 = 1 << 20;

static KEYS: OnceLock<Result<Codec, CodecError>> = OnceLock::new();

/// An object that decodes is whole: encoded again it decodes to the same. More than the limit never comes out.
pub(super) fn codec(data: &[u8]) {
    let keys = KEYS.get_or_init(|| Codec::new::<&str, _>(&[], &[IDENTITY]));
    let Ok(codec) = keys else { panic!("the identity is none") };
    if let Ok(plain) = codec.decode(data, PLAIN_BYTES) {
        assert!(plain.len() as u64 <= PLAIN_BYTES);
        let again = codec.encode(&plain).and_then(|object| codec.decode(&object, PLAIN_BYTES));
        assert!(again.is_ok_and(|again| again == plain));
    }
}

/// A name that is read is written the same.
pub(super) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for layout in [Layout::Sqlite, Layout::Postgres] {
        if let Some(name) = layout.parse_piece(text) {
            assert_eq!(layout.piece_file(name).as_deref(), Some(text));
        }
    }
    if let Ok(generation) = text.parse::<Generation>() {
        assert_eq!(generation.to_string(), text);
    }
    if let Ok(era) = EraName::parse(text) {
        assert!(EraName::parse(&era.to_string()).is_ok_and(|again| again == era));
    }
    let _ = Destination::parse(text);
}

/// Runs of bytes, four bytes each (where it begins, how long it is, twice 16 bits): a cover is in order, without a gap, of runs that are
/// there, and assembles to as many bytes as were asked for.
pub(super) fn pieces(data: &[u8]) {
    let number = |bytes: &[u8]| u64::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let mut spans: Vec<_> =
        data.chunks_exact(4).take(64).map(|run| number(run)..number(run) + number(&run[2..])).collect();
    let Some(wanted) = spans.pop() else { return };
    let Ok(uses) = cover(&spans, wanted.clone()) else { return };
    let mut assembly = Assembly::new(1 << 17);
    let truth = |at: u64| (at % 251) as u8;
    for part in &uses {
        assert_eq!(part.span, spans[part.piece]);
        let bytes: Vec<u8> = part.span.clone().map(truth).collect();
        assert!(assembly.add(part.span.start, &bytes).is_ok());
    }
    if !wanted.is_empty() {
        assert!(assembly.finish(wanted.clone()).is_ok_and(|bytes| bytes == wanted.map(truth).collect::<Vec<u8>>()));
    }
}
