//! Manifests as servers write them, damaged ones, and ones that are intact and wrong.

use super::*;
use proptest::prelude::*;

/// Puts the last line below the others, as the server does.
fn seal(body: &str) -> Vec<u8> {
    let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{body}\"Manifest-Checksum\": \"{digest}\"}}\n").into_bytes()
}

fn manifest(version: &str, files: &str) -> Vec<u8> {
    seal(&format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n\"Files\": [\n{files}\n],\n\"WAL-Ranges\": [\n\
         {{ \"Timeline\": 2, \"Start-LSN\": \"0/3000000\", \"End-LSN\": \"0/3000100\" }},\n\
         {{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/3000000\" }}\n],\n"
    ))
}

const FILES: &str = r#"{ "Path": "PG_VERSION", "Size": 3, "Last-Modified": "2024-05-01 10:00:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "8a744722" },
{ "Encoded-Path": "626173652fff", "Size": 0, "Last-Modified": "2024-05-01 10:00:00 GMT" }"#;

#[test]
fn reads_what_servers_write() {
    let manifest = Manifest::parse(&manifest("2,\n\"System-Identifier\": 7654321000000000001", FILES)).unwrap();
    assert_eq!((manifest.version, manifest.system_id), (2, Some(SystemId(7_654_321_000_000_000_001))));
    assert_eq!(manifest.files[0].checksum, Checksum::Crc32c(0x2247_748A));
    assert_eq!(manifest.files[1].path.as_bytes(), b"base/\xff");
    assert_eq!(manifest.files[1].checksum, Checksum::None);
    let tlis: Vec<Tli> = manifest.wal_ranges.iter().map(|range| range.tli).collect();
    assert_eq!(tlis, [Tli(1), Tli(2)], "oldest first");
}

#[test]
fn every_flipped_bit_and_every_cut_is_seen() {
    let good = manifest("1", FILES);
    Manifest::parse(&good).unwrap();
    for at in 0..good.len() {
        assert!(Manifest::parse(&good[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            // Hexadecimal digits of the checksum may be of either case; everything else counts.
            let same = bytes.eq_ignore_ascii_case(&good) && bytes[at].is_ascii_alphabetic() && at + 70 > good.len();
            assert!(same || Manifest::parse(&bytes).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn intact_and_wrong_is_refused() {
    for (version, files) in [
        ("3", FILES),
        ("1", r#"{ "Path": "../x", "Size": 3 }"#),
        ("1", r#"{ "Path": "x", "Encoded-Path": "78", "Size": 3 }"#),
        ("1", r#"{ "Encoded-Path": "7", "Size": 3 }"#),
        ("1", r#"{ "Path": "x", "Size": -3 }"#),
        ("1", r#"{ "Path": "x", "Size": 3, "Checksum-Algorithm": "CRC32C" }"#),
        ("1", r#"{ "Path": "x", "Size": 3, "Checksum-Algorithm": "MD5", "Checksum": "00" }"#),
        ("1", r#"{ "Path": "x", "Size": 3, "Checksum-Algorithm": "SHA256", "Checksum": "00" }"#),
    ] {
        assert!(Manifest::parse(&manifest(version, files)).is_err(), "{version} {files}");
    }
}

#[test]
fn hashes_are_the_known_ones() {
    for (algorithm, hash) in [
        (ChecksumAlgorithm::None, "NONE:"),
        (ChecksumAlgorithm::Crc32c, "CRC32C:b73f4b36"),
        (ChecksumAlgorithm::Sha224, "SHA224:23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        (ChecksumAlgorithm::Sha256, "SHA256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            ChecksumAlgorithm::Sha384,
            "SHA384:cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            ChecksumAlgorithm::Sha512,
            "SHA512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ] {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(format!("{:?}", hasher.finish()), hash);
    }
}

proptest! {
    #[test]
    fn any_body_is_an_error_at_worst(body in "[ -~\n]{0,200}") {
        let _ = Manifest::parse(body.as_bytes());
        let _ = Manifest::parse(&seal(&body));
    }
}
