//! Every object of an archive damaged, cut, removed and swapped: each time an error that names it, and never wrong data.

use crate::rig::{MIB, Rig, told};
use backup_format::Chunk;
use bytes::Bytes;
use lsn::{Lsn, SegmentNumber, Tli};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica_client::{Part, Plain, Store};
use restore::postgres::fetch::Fetcher;
use restore::postgres::target::Target;

const LIMIT: u64 = 64 << 20;

/// What names an object in an error: its key, or the segment or chunk it holds.
fn is_named(error: &str, key: &str) -> bool {
    let file = key.rsplit('/').next().unwrap_or(key);
    let stem = file.split('.').next().unwrap_or(file);
    let number = stem.split('_').next().unwrap_or(stem).trim_start_matches('0').to_uppercase();
    error.contains(file)
        || error.contains(stem)
        || (error.contains("segment") && error.to_uppercase().contains(&number))
}

async fn objects(rig: &Rig) -> Vec<String> {
    let mut keys: Vec<String> = rig.store.list("postgres").await.unwrap().into_iter().map(|info| info.key).collect();
    // The era was read when the archive was opened; its own damage is replica-client's to find.
    keys.retain(|key| !key.ends_with("era.json") && !key.contains("/facts/") && !key.contains("probe"));
    assert!(keys.len() > 15, "{keys:?}");
    keys
}

async fn replace(store: &Store, key: &str, bytes: &[u8]) {
    store.put(key, Bytes::copy_from_slice(bytes)).await.unwrap();
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_found_and_named() {
    let rig = Rig::new().await;
    rig.prove("whole").await.unwrap();
    let mut chance = StdRng::seed_from_u64(11);
    let (mut tried, mut harmless) = (0, 0);
    for key in objects(&rig).await {
        let whole = rig.store.get(&key, LIMIT).await.unwrap();
        // Header and trailer, and some in between.
        let mut places: Vec<usize> = (0..7).chain(whole.len() - 3..whole.len()).collect();
        places.extend((0..6).map(|_| chance.random_range(0..whole.len())));
        for at in places {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1 << chance.random_range(0..8);
            replace(&rig.store, &key, &bytes).await;
            let name = format!("flip-{tried}");
            match rig.prove(&name).await {
                Err(error) => assert!(is_named(&error, &key), "byte {at} of {key}: {error}"),
                // Some bits say nothing: LZ4 may copy the same bytes from another place. `prove` has compared every byte.
                Ok(()) => harmless += 1,
            }
            tried += 1;
            let _ = std::fs::remove_dir_all(rig.folder.path().join(&name));
        }
        replace(&rig.store, &key, &whole).await;
    }
    assert!(tried > 300 && harmless * 20 < tried, "{tried} tried, {harmless} harmless");
}

#[tokio::test]
async fn a_cut_or_missing_object_is_found_and_named() {
    let rig = Rig::new().await;
    let keys = objects(&rig).await;
    for (at, key) in keys.iter().enumerate() {
        let whole = rig.store.get(key, LIMIT).await.unwrap();
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            replace(&rig.store, key, &whole[..length]).await;
            let error = rig.prove(&format!("cut-{at}-{length}")).await.unwrap_err();
            assert!(is_named(&error, key), "{key} cut to {length}: {error}");
        }
        rig.store.delete(vec![key.clone()]).await.unwrap();
        let outcome = rig.prove(&format!("gone-{at}")).await;
        let last = key.ends_with(&format!("_{:08x}.wal.lz4", rig.wal.end().0 % (1 << 20)));
        match (outcome, key.ends_with("parent.json")) {
            // The first generation needs no link.
            (Ok(()), true) => {}
            (Ok(()), false) => panic!("{key} was removed and nobody noticed"),
            // Without its last object the archive is a shorter one; `prove` knows more than the archive does.
            (Err(error), _) if last => assert!(error.contains("the archive ends at"), "{key}: {error}"),
            (Err(error), _) => assert!(
                is_named(&error, key) || error.contains("missing") || error.contains("no snapshot"),
                "{key}: {error}"
            ),
        }
        replace(&rig.store, key, &whole).await;
    }
    rig.prove("whole").await.unwrap();
}

#[tokio::test]
async fn swapped_objects_are_found() {
    let rig = Rig::new().await;
    let keys = objects(&rig).await;
    let alike = |a: &str, b: &str| {
        let folder = |key: &str| key.rsplit_once('/').map(|(folder, _)| folder.to_owned());
        folder(a) == folder(b)
    };
    let mut swapped = 0;
    for (at, first) in keys.iter().enumerate() {
        let Some(second) = keys[at + 1..].iter().find(|second| alike(first, second)) else { continue };
        let (one, two) = (rig.store.get(first, LIMIT).await.unwrap(), rig.store.get(second, LIMIT).await.unwrap());
        replace(&rig.store, first, &two).await;
        replace(&rig.store, second, &one).await;
        let error = rig.prove(&format!("swap-{at}")).await.unwrap_err();
        assert!(is_named(&error, first) || is_named(&error, second), "{first} and {second}: {error}");
        replace(&rig.store, first, &one).await;
        replace(&rig.store, second, &two).await;
        swapped += 1;
    }
    assert!(swapped > 10, "only {swapped}");
    rig.prove("whole").await.unwrap();
}

/// Every single byte of what is small, and a thousand random ones of each large object, each time by the shortest way on which that object
/// is read. What is delivered in spite of the flip must be what was stored.
#[tokio::test]
async fn a_thousand_flips_of_large_objects_and_every_byte_of_small_ones() {
    let rig = Rig::new().await;
    let chunk = largest_chunk(&rig);
    let plan = rig.plan(Target::Latest).await.unwrap();
    let fetcher = Fetcher::new(rig.replica.clone(), plan.lineage.clone(), plan.end);
    let mut chance = StdRng::seed_from_u64(12);
    let mut harmless = 0;
    // Segment 2 is one merged object: what an archive mostly is.
    let key = objects(&rig).await.into_iter().find(|key| key.ends_with("0000000000000002.seg.lz4")).unwrap();
    let whole = rig.store.get(&key, LIMIT).await.unwrap();
    assert!(whole.len() > 100_000, "{key} is no large object");
    let right = rig.wal.slice(Lsn(2 * MIB), Lsn(3 * MIB));
    for _ in 0..1000 {
        let at = chance.random_range(0..whole.len());
        flip(&rig.store, &key, &whole, at, &mut chance).await;
        match fetcher.by_name(Tli(1), SegmentNumber(2)).await {
            Err(error) => assert!(is_named(&told(&error), &key), "byte {at} of {key}: {}", told(&error)),
            Ok(segment) => {
                assert!(segment.unwrap().bytes == right, "byte {at} of {key}: wrong WAL was delivered");
                harmless += 1;
            }
        }
    }
    replace(&rig.store, &key, &whole).await;

    let file = format!("/chunks/{:08}.lz4", chunk.number);
    let key = objects(&rig).await.into_iter().find(|key| key.ends_with(&file)).unwrap();
    let whole = rig.store.get(&key, LIMIT).await.unwrap();
    let right = read_chunk(&rig, &chunk).await.unwrap();
    for _ in 0..1000 {
        let at = chance.random_range(0..whole.len());
        flip(&rig.store, &key, &whole, at, &mut chance).await;
        match read_chunk(&rig, &chunk).await {
            Err(error) => assert!(is_named(&told(&error), &key), "byte {at} of {key}: {}", told(&error)),
            Ok(bytes) => {
                assert!(bytes == right, "byte {at} of {key}: a wrong chunk was delivered");
                harmless += 1;
            }
        }
    }
    replace(&rig.store, &key, &whole).await;
    assert!(harmless < 40, "{harmless} flips of 2000 said nothing");

    // Plans are made of the small ones; a history file is compared with the tree.
    let part = rig.replica.open_part(rig.root, rig.snapshot.begin.lsn, Part::Manifest).unwrap();
    let manifest = part.read_all(LIMIT).await.unwrap();
    let mut tried = 0;
    for key in objects(&rig).await {
        let whole = rig.store.get(&key, LIMIT).await.unwrap();
        if whole.len() > 4000 || key.contains("/wal/") || key.contains("/chunks/") {
            continue;
        }
        for at in 0..whole.len() {
            flip(&rig.store, &key, &whole, at, &mut chance).await;
            let outcome = rig.plan(Target::Latest).await;
            // The manifest is read when files are laid out.
            if key.ends_with("backup_manifest.lz4") {
                let expected = Plain { length: rig.snapshot.manifest.length, crc32c: rig.snapshot.manifest.crc32c };
                let part = rig.replica.open_part(rig.root, rig.snapshot.begin.lsn, Part::Manifest).unwrap();
                match part.expect(expected).read_all(LIMIT).await {
                    Err(error) => assert!(is_named(&told(&error), &key), "byte {at} of {key}: {}", told(&error)),
                    Ok(bytes) => assert!(bytes == manifest, "byte {at} of {key}: a wrong manifest was delivered"),
                }
            } else {
                let error =
                    outcome.err().unwrap_or_else(|| panic!("byte {at} of {key} was flipped and nobody noticed"));
                assert!(is_named(&error, &key), "byte {at} of {key}: {error}");
            }
            tried += 1;
        }
        replace(&rig.store, &key, &whole).await;
    }
    assert!(tried > 500, "only {tried} bytes of small objects");
    rig.prove("whole").await.unwrap();
}

async fn flip(store: &Store, key: &str, whole: &[u8], at: usize, chance: &mut StdRng) {
    let mut bytes = whole.to_vec();
    bytes[at] ^= 1 << chance.random_range(0..8);
    replace(store, key, &bytes).await;
}

fn largest_chunk(rig: &Rig) -> Chunk {
    *rig.snapshot.chunks.iter().max_by_key(|chunk| chunk.length).unwrap()
}

async fn read_chunk(rig: &Rig, chunk: &Chunk) -> Result<Bytes, replica_client::Error> {
    let part = rig.replica.open_part(rig.root, rig.snapshot.begin.lsn, Part::Chunk(chunk.number))?;
    part.expect(Plain { length: chunk.length, crc32c: chunk.crc32c }).read_all(LIMIT).await
}
