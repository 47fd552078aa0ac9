//! Chunks: what is packed comes out, however it is cut, and nothing damaged passes.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn path(text: &str) -> DataPath {
    DataPath::parse(text).unwrap()
}

/// Packs files (`None`: a directory), each given in runs of `run` bytes.
fn pack(files: &[(DataPath, Option<Vec<u8>>)], target: u64, run: usize) -> Vec<Packed> {
    let mut packer = Packer::new(target);
    let mut chunks = Vec::new();
    for (path, content) in files {
        match content {
            None => packer.directory(path.clone(), 0o700),
            Some(content) => {
                packer.file(path.clone(), 0o600, content.len() as u64);
                for bytes in content.chunks(run) {
                    packer.data(Bytes::copy_from_slice(bytes));
                    chunks.extend(std::iter::from_fn(|| packer.poll()));
                }
            }
        }
    }
    chunks.extend(packer.finish());
    chunks
}

fn plain(chunk: &Packed) -> Vec<u8> {
    chunk.bytes.concat()
}

type Tree = BTreeMap<DataPath, Option<Vec<u8>>>;

/// Takes a chunk apart, given in runs of `run` bytes, into `tree`.
fn unpack(bytes: &[u8], run: usize, tree: &mut Tree) -> Result<(), ChunkError> {
    let mut decoder = Decoder::new();
    let mut parts = Vec::new();
    let mut done = 0;
    for run in bytes.chunks(run) {
        decoder.push(Bytes::copy_from_slice(run));
        while let Some(event) = decoder.poll()? {
            match event {
                Event::Index(index) => {
                    for part in &index {
                        let content = (part.kind == Kind::File).then(|| vec![0; part.size as usize]);
                        tree.entry(part.path.clone()).or_insert(content);
                    }
                    parts = index;
                }
                Event::Data { part, offset, bytes } => {
                    let content = tree.get_mut(&parts[part].path).unwrap().as_mut().unwrap();
                    content[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
                Event::PartDone(part) => {
                    assert_eq!(part, done);
                    done += 1;
                }
            }
        }
    }
    decoder.finish()?;
    assert_eq!(done, parts.len());
    Ok(())
}

fn files() -> impl Strategy<Value = Vec<(DataPath, Option<Vec<u8>>)>> {
    let content = proptest::option::weighted(0.9, proptest::collection::vec(any::<u8>(), 0..3000));
    proptest::collection::vec(content, 1..12).prop_map(|contents| {
        contents.into_iter().enumerate().map(|(number, content)| (path(&format!("base/{number}")), content)).collect()
    })
}

proptest! {
    #[test]
    fn what_is_packed_comes_out(files in files(), target in 1u64..5000, run in 1usize..700) {
        let chunks = pack(&files, target, run);
        let mut tree = Tree::new();
        for chunk in chunks.iter().rev() {
            let bytes = plain(chunk);
            prop_assert_eq!(bytes.len() as u64, chunk.length);
            prop_assert_eq!(crc32c::crc32c(&bytes), chunk.crc32c);
            prop_assert!(chunk.parts.iter().map(|part| part.length).sum::<u64>() <= target);
            unpack(&bytes, run, &mut tree).unwrap();
        }
        prop_assert_eq!(tree, files.into_iter().collect::<Tree>());
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_is_an_error(files in files(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = plain(&pack(&files, 1 << 20, 100)[0]);
        let at = at.index(bytes.len());
        prop_assert!(unpack(&bytes[..at], 64, &mut Tree::new()).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(unpack(&bytes, 64, &mut Tree::new()).is_err());
    }

    #[test]
    fn any_bytes_are_an_error_at_worst(bytes in proptest::collection::vec(any::<u8>(), 0..200), with_magic in any::<bool>()) {
        let mut all = if with_magic { MAGIC.to_vec() } else { vec![] };
        all.extend(bytes);
        let mut decoder = Decoder::new();
        decoder.push(all.into());
        while let Ok(Some(_)) = decoder.poll() {}
    }

    #[test]
    fn checksums_combine(first in proptest::collection::vec(any::<u8>(), 0..300), second in proptest::collection::vec(any::<u8>(), 0..300)) {
        let both = [first.clone(), second.clone()].concat();
        prop_assert_eq!(combine_crc32c(crc32c::crc32c(&first), crc32c::crc32c(&second), second.len() as u64), crc32c::crc32c(&both));
    }
}

#[test]
fn the_layout_is_this() {
    let chunk = &pack(&[(path("a"), None), (path("a/b"), Some(b"xyz".to_vec()))], 1000, 10)[0];
    let bytes = plain(chunk);
    assert_eq!(bytes[..8], *b"SWCHUNK\x01");
    assert_eq!(bytes[8..16], [2, 0, 0, 0, 74, 0, 0, 0]);
    assert_eq!(bytes[20..28], [0, 0xC0, 0x01, 0, 0, 1, 0, b'a']);
    assert_eq!(bytes[56..66], [1, 0x80, 0x01, 0, 0, 3, 0, b'a', b'/', b'b']);
    assert_eq!(bytes[66..74], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[90..94], crc32c::crc32c(b"xyz").to_le_bytes());
    assert_eq!(bytes[94..], *b"xyz");
}

#[test]
fn an_index_that_is_intact_and_wrong_is_refused() {
    let good = Part {
        kind: Kind::File,
        mode: 0o600,
        path: path("x"),
        size: 3,
        offset: 0,
        length: 3,
        crc32c: crc32c::crc32c(b"abc"),
    };
    let refusal = |part: Part| {
        let mut decoder = Decoder::new();
        decoder.push(encode_head(&[part]));
        decoder.poll().unwrap_err()
    };
    for bad in [
        Part { mode: 0o10000, ..good.clone() },
        Part { offset: 1, ..good.clone() },
        Part { offset: u64::MAX, ..good.clone() },
        Part { kind: Kind::Directory, ..good.clone() },
        Part { length: 0, ..good.clone() },
    ] {
        assert!(matches!(refusal(bad), ChunkError::BadPart { part: 0, .. }));
    }
}

#[test]
fn announced_sizes_reserve_nothing() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([0; 4]);
    let mut decoder = Decoder::new();
    decoder.push(bytes.into());
    assert!(matches!(decoder.poll(), Err(ChunkError::TooLarge { .. })));
}

#[test]
fn bytes_after_the_last_part_are_an_error() {
    let mut bytes = plain(&pack(&[(path("a"), Some(vec![1]))], 1000, 10)[0]);
    bytes.push(0);
    assert_eq!(unpack(&bytes, 1000, &mut Tree::new()), Err(ChunkError::TooLong));
}
