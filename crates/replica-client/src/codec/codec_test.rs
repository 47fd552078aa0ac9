//! Objects that are whole decode to what went in; every other object is an error.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use proptest::prelude::*;

use super::*;

const LIMIT: u64 = 64 << 20;

fn keys() -> (String, String) {
    use age::secrecy::ExposeSecret;
    let identity = x25519::Identity::generate();
    (identity.to_public().to_string(), identity.to_string().expose_secret().to_owned())
}

fn encrypted() -> Codec {
    let (recipient, identity) = keys();
    Codec::new(&[recipient], &[identity]).unwrap()
}

/// The frame of `abc`, written out by hand from the format's description: stored block, content checksum.
const ABC: &[u8] = b"\x04\x22\x4d\x18\x64\x40\xa7\x03\x00\x00\x80abc\x00\x00\x00\x00\xff\x53\xd1\x32";

#[test]
fn a_frame_made_by_hand_decodes() {
    assert_eq!(Codec::plain().decode(ABC, 3).unwrap(), b"abc");
    assert!(matches!(Codec::plain().decode(ABC, 2), Err(CodecError::TooLong(2))));
}

#[test]
fn what_is_written_begins_as_the_format_says() {
    let object = Codec::plain().encode(&[7; 100]).unwrap();
    // Version 01, independent blocks, content checksum, no size; blocks of 256 KiB.
    assert_eq!(object[..6], [0x04, 0x22, 0x4d, 0x18, 0b0110_0100, 0x50]);
    let object = encrypted().encode(b"x").unwrap();
    assert!(object.starts_with(b"age-encryption.org/v1\n-> X25519 "));
}

#[test]
fn frames_of_other_writers_decode() {
    // Long enough that a decoder of linked blocks has to move its history.
    for (size, bytes) in [(BlockSize::Max64KB, 400_000), (BlockSize::Max1MB, 3_500_000), (BlockSize::Max4MB, 600_000)] {
        let text: Vec<u8> = (0..bytes / 4u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for (block_checksums, length) in [(false, None), (true, Some(text.len() as u64))] {
                let info = FrameInfo::new()
                    .block_size(size)
                    .block_mode(mode)
                    .content_checksum(true)
                    .block_checksums(block_checksums)
                    .content_size(length);
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(&text).unwrap();
                let object = encoder.finish().unwrap();
                assert!(Codec::plain().decode(&object, LIMIT).unwrap() == text, "{size:?} {mode:?}");
            }
        }
    }
}

#[test]
fn a_frame_without_checksum_is_refused() {
    let mut encoder = FrameEncoder::new(Vec::new());
    encoder.write_all(b"abc").unwrap();
    assert!(matches!(Codec::plain().decode(&encoder.finish().unwrap(), LIMIT), Err(CodecError::NoChecksum)));
}

#[test]
fn any_recipient_can_read_and_nobody_else() {
    let (all, secrets): (Vec<_>, Vec<_>) = (0..3).map(|_| keys()).unzip();
    let none: [&str; 0] = [];
    let writer = Codec::new(&all, &none).unwrap();
    assert!(writer.encrypts() && !writer.can_decrypt());
    let object = writer.encode(b"secret words").unwrap();
    assert!(matches!(writer.decode(&object, LIMIT), Err(CodecError::NoIdentity)));
    for secret in &secrets {
        let reader = Codec::new(&none, &[keys().1, secret.clone()]).unwrap();
        assert_eq!(reader.decode(&object, LIMIT).unwrap(), b"secret words");
        assert!(Codec::new(&all, std::slice::from_ref(secret)).unwrap().can_decrypt());
    }
    let stranger = Codec::new(&none, &[keys().1]).unwrap();
    let error = stranger.decode(&object, LIMIT).unwrap_err();
    assert!(matches!(error, CodecError::WrongIdentity), "{error}");
    assert_eq!(error.kind(), Kind::Secret);
}

#[test]
fn keys_are_checked_and_secrets_not_repeated() {
    let none: [&str; 0] = [];
    let error = Codec::new(&["age1nonsense"], &none).unwrap_err();
    assert!(error.to_string().contains("age1nonsense"), "{error}");
    let error = Codec::new(&none, &["AGE-SECRET-KEY-1NONSENSE"]).unwrap_err();
    assert!(!error.to_string().contains("NONSENSE"), "{error}");
    let codec = encrypted();
    assert!(!format!("{codec:?}").contains("SECRET"), "{codec:?}");
}

fn every_damage_is_noticed(codec: &Codec, plain: &[u8]) {
    let object = codec.encode(plain).unwrap();
    assert_eq!(codec.decode(&object, LIMIT).unwrap(), plain);
    for at in 0..object.len() {
        let mut damaged = object.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(codec.decode(&damaged, LIMIT).is_err(), "bit {} of byte {at} of {}", at % 8, object.len());
        assert!(codec.decode(&object[..at], LIMIT).is_err(), "cut to {at} of {}", object.len());
    }
    for tail in [&b"\0"[..], b"abc", &object] {
        let longer = [&object, tail].concat();
        assert!(codec.decode(&longer, LIMIT).is_err(), "with {} bytes behind", tail.len());
    }
}

#[test]
fn flips_cuts_and_tails_are_noticed() {
    let plain: Vec<u8> = (0..700u32).map(|n| (n * n % 251) as u8 / 16).collect();
    every_damage_is_noticed(&Codec::plain(), &plain);
    every_damage_is_noticed(&Codec::plain(), b"");
    every_damage_is_noticed(&encrypted(), &plain);
}

#[test]
fn a_cut_between_blocks_is_noticed() {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let plain: Vec<u8> = (0..1u32 << 20).map(|_| noise()).collect();
    let object = Codec::plain().encode(&plain).unwrap();
    let mut at = 7;
    let mut cuts = 0;
    loop {
        assert!(matches!(Codec::plain().decode(&object[..at], LIMIT), Err(CodecError::Truncated)), "cut at {at}");
        cuts += 1;
        let word = u32::from_le_bytes(object[at..at + 4].try_into().unwrap());
        if word == 0 {
            break;
        }
        at += 4 + (word & 0x7fff_ffff) as usize;
    }
    assert_eq!(cuts, 5);
    // An age file of a whole number of its chunks, with a chunk taken from the end.
    let codec = encrypted();
    let object = codec.encode(&plain).unwrap();
    for cut in [object.len() - 65_552, object.len() - 2 * 65_552] {
        assert!(codec.decode(&object[..cut], LIMIT).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn round_trip_in_any_steps(plain in proptest::collection::vec(0u8..4, 0..150_000), steps in proptest::collection::vec(1usize..100_000, 1..8), age in any::<bool>()) {
        let codec = if age { encrypted() } else { Codec::plain() };
        let mut encoder = codec.encoder().unwrap();
        let mut object = Vec::new();
        let mut rest = &plain[..];
        for step in steps.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*step));
            encoder.push(now).unwrap();
            object.extend_from_slice(&encoder.take());
            rest = later;
        }
        let (end, facts) = encoder.finish().unwrap();
        object.extend_from_slice(&end);
        prop_assert_eq!(facts, Plain::of(&plain));
        prop_assert_eq!(codec.decode(&object, LIMIT).unwrap(), plain);
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic(start in prop_oneof![Just(&ABC[..7]), Just(&ABC[..11]), Just(&b"age-encryption.org/v1\n-> X25519 "[..]), Just(&b""[..])], noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let object = [start, &noise].concat();
        prop_assert!(encrypted().decode(&object, LIMIT).is_err());
    }

    #[test]
    fn damaged_blocks_are_an_error_and_no_panic(at in 7usize..2000, value in any::<u8>()) {
        let plain: Vec<u8> = (0..40_000u32).map(|n| (n / 7 % 19) as u8).collect();
        let mut object = Codec::plain().encode(&plain).unwrap();
        let at = at % object.len();
        prop_assume!(object[at] != value);
        object[at] = value;
        prop_assert!(Codec::plain().decode(&object, LIMIT).is_err());
    }
}
