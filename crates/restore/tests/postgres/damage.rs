//! Every object of an archive damaged, cut, removed and swapped: each time an error that names it, and never wrong data.

use crate::rig::Rig;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica_client::Store;

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
