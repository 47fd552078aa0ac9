//! SQLite databases restored from replicas made of a real SQLite's files, whole and damaged.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod replica;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use replica::{Made, dump, make, open};
use replica_client::{Codec, Generation, Kind, PieceName, Replica, Store};
use restore::sqlite::{Error, IntegrityCheck, Options, Progress, Restored, Target, plan, restore};

const G: Generation = Generation(0x00c0_ffee);

async fn to_file(replica: &Replica, options: &Options, output: &Path) -> Result<Restored, Error> {
    let plan = plan(replica, options).await?;
    let progress = Arc::new(Progress::default());
    let restored = restore(replica, &plan, output, options, &progress).await?;
    assert_eq!(progress.stored(), plan.stored_bytes());
    Ok(restored)
}

/// Restores, and says what the database holds; a failure leaves nothing.
async fn content(replica: &Replica, target: Target) -> Result<String, Error> {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("app.db");
    let options = Options { target, integrity: IntegrityCheck::Full, ..Options::default() };
    let result = to_file(replica, &options, &output).await;
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), usize::from(result.is_ok()), "{names:?}");
    result.map(|restored| {
        let file = std::fs::read(&output).unwrap();
        let number =
            |at: usize, length: usize| file[at..at + length].iter().fold(0, |n, byte| n * 256 + u64::from(*byte));
        let page_size = if number(16, 2) == 1 { 65536 } else { number(16, 2) };
        assert_eq!(file.len() as u64, number(28, 4) * page_size, "as long as its header says");
        assert_eq!(file.len() as u64, restored.bytes);
        dump(&open(&output))
    })
}

fn encrypted() -> Codec {
    use age::secrecy::ExposeSecret;
    let identity = age::x25519::Identity::generate();
    Codec::new(&[identity.to_public().to_string()], &[identity.to_string().expose_secret()]).unwrap()
}

#[tokio::test]
async fn any_place_in_the_log_is_restored_as_it_was() {
    for (page_size, codec) in [(512, Codec::plain()), (4096, encrypted()), (65536, Codec::plain())] {
        let replica = Replica::sqlite(Store::memory(), codec);
        let Made { states, .. } = make(&replica, G, page_size, 4, 3).await;
        let newest = &states.last().unwrap().dump;
        assert_eq!(&content(&replica, Target::Latest).await.unwrap(), newest);
        for state in &states {
            let target = Target::Position { index: state.index, offset: state.offset };
            assert_eq!(content(&replica, target).await.unwrap(), state.dump, "{target:?} of pages of {page_size}");
        }
        for index in 0..4 {
            let end = states.iter().rfind(|state| state.index == index).unwrap();
            assert_eq!(content(&replica, Target::Index(index)).await.unwrap(), end.dump);
            let none = Target::Position { index: index + 1, offset: 0 };
            if index < 3 {
                assert_eq!(content(&replica, none).await.unwrap(), end.dump);
            }
        }
        for missing in [Target::Index(9), Target::Position { index: 9, offset: 0 }] {
            let error = content(&replica, missing).await.unwrap_err();
            assert!(matches!(error, Error::NoSuchMoment(_)), "{error}");
        }
        // Places that are no end of a transaction.
        for offset in [1, 31, 33, states[1].offset - 1] {
            let error = content(&replica, Target::Position { index: states[1].index, offset }).await.unwrap_err();
            assert!(matches!(error, Error::Wal { .. }), "{offset}: {error}");
        }
    }
}

/// Waits until the store's clock, in milliseconds, is past everything stored so far.
async fn next_millisecond() -> Timestamp {
    let now = Timestamp::now();
    while Timestamp::now().as_millisecond() <= now.as_millisecond() {
        tokio::task::yield_now().await;
    }
    now
}

#[tokio::test]
async fn a_moment_is_found_in_its_generation() {
    let store = Store::memory();
    let replica = Replica::sqlite(store, Codec::plain());
    let before = next_millisecond().await;
    let first = make(&replica, G, 4096, 2, 2).await;
    let between = next_millisecond().await;
    let second = make(&replica, Generation(1), 4096, 2, 2).await;
    let after = next_millisecond().await;
    let newest = |made: &Made| made.states.last().unwrap().dump.clone();
    assert_eq!(content(&replica, Target::Time(between)).await.unwrap(), newest(&first));
    assert_eq!(content(&replica, Target::Time(after)).await.unwrap(), newest(&second));
    let far = after + jiff::SignedDuration::from_hours(10_000);
    assert_eq!(content(&replica, Target::Time(far)).await.unwrap(), newest(&second));
    assert_eq!(content(&replica, Target::Latest).await.unwrap(), newest(&second));
    let error = content(&replica, Target::Time(before)).await.unwrap_err();
    assert!(error.to_string().contains("does not go back to"), "{error}");
    let options = Options { generation: Some(G), ..Options::default() };
    assert_eq!(plan(&replica, &options).await.unwrap().generation, G);
    // Every piece's own moment is the state up to it.
    let pieces = replica.pieces(G, 0..=9).await.unwrap();
    for state in &first.states {
        let stored = pieces.iter().rfind(|piece| (piece.name.index, piece.name.start) < (state.index, state.offset));
        let restored = content(&replica, Target::Time(stored.unwrap().created)).await.unwrap();
        assert_eq!(restored, state.dump, "index {} offset {} of {pieces:?}", state.index, state.offset);
    }
}

#[tokio::test]
async fn a_transaction_without_its_end_is_left_out_at_the_end_only() {
    let replica = Replica::sqlite(Store::memory(), Codec::plain());
    let made = make(&replica, G, 4096, 2, 2).await;
    let last = made.states.last().unwrap();
    // The first frame of a transaction that goes on: a page that is no commit.
    let mut chain = made.chain;
    let page = vec![0xee; 4096];
    let number = std::num::NonZeroU32::new(1).unwrap();
    let header = chain.append(number, None, &page).unwrap();
    let frame: Bytes = [&header[..], &page].concat().into();
    let name = PieceName::sqlite(last.index, last.offset);
    replica.put_piece(G, name, frame.clone(), Default::default()).await.unwrap();
    assert_eq!(content(&replica, Target::Latest).await.unwrap(), last.dump);
    // With a life behind it, the same is damage.
    let next = sqlite_wal::Header { sequence: 99, ..*chain.header() }.encode();
    let name = PieceName::sqlite(last.index + 1, 0);
    replica.put_piece(G, name, Bytes::copy_from_slice(&next), Default::default()).await.unwrap();
    let error = content(&replica, Target::Latest).await.unwrap_err();
    assert!(error.to_string().contains("within a transaction"), "{error}");
}

#[tokio::test]
async fn every_damage_is_noticed() {
    // Two pieces in each life, and one, so that whole lives can be exchanged.
    for commits in [2, 1] {
        every_damage_of(commits).await;
    }
}

async fn every_damage_of(commits: u64) {
    let store = Store::memory();
    let replica = Replica::sqlite(store.clone(), Codec::plain());
    let made = make(&replica, G, 512, 4, commits).await;
    let newest = &made.states.last().unwrap().dump;
    let keys: Vec<String> = store.list("generations").await.unwrap().into_iter().map(|object| object.key).collect();
    let last_piece = keys.iter().filter(|key| key.contains("/wal/")).max().unwrap().clone();
    let last_snapshot = keys.iter().filter(|key| key.contains("/snapshots/")).max().unwrap().clone();
    // Only what the newest state needs can make it wrong.
    let used: BTreeSet<&String> = keys
        .iter()
        .filter(|key| **key == last_snapshot || key.contains("/wal/") && **key >= made.first_needed)
        .collect();
    assert!(used.len() >= 4, "{used:?}");
    let mut whole = Vec::new();
    for key in &keys {
        whole.push((key.clone(), store.get(key, 1 << 30).await.unwrap()));
    }
    let check = async |what: String, may_be_older: bool| match content(&replica, Target::Latest).await {
        Err(error) => {
            let said = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": ");
            let named = said.contains("generations/") || said.contains("generation 0000000000c0ffee");
            assert!(named, "{what}: {said}");
        }
        Ok(dump) if may_be_older => {
            assert!(made.states.iter().any(|state| state.dump == dump), "{what}: no state that ever was");
        }
        Ok(dump) => assert_eq!(&dump, newest, "{what} went unnoticed"),
    };
    for (key, object) in &whole {
        for at in [0, 5, object.len() / 3, object.len() / 2, object.len() - 5, object.len() - 1] {
            let mut damaged = object.to_vec();
            damaged[at] ^= 0x40;
            store.put(key, damaged.into()).await.unwrap();
            check(format!("byte {at} of {key}"), false).await;
            if used.contains(key) {
                assert!(content(&replica, Target::Latest).await.is_err(), "byte {at} of {key}");
            }
        }
        store.put(key, object.slice(..object.len() / 2)).await.unwrap();
        check(format!("half of {key}"), false).await;
        store.delete(vec![key.clone()]).await.unwrap();
        check(format!("without {key}"), *key == last_piece || *key == last_snapshot).await;
        store.put(key, object.clone()).await.unwrap();
    }
    for (at, (one, first)) in whole.iter().enumerate() {
        for (other, second) in &whole[at + 1..] {
            store.put(one, second.clone()).await.unwrap();
            store.put(other, first.clone()).await.unwrap();
            check(format!("{one} and {other} exchanged"), false).await;
            store.put(one, first.clone()).await.unwrap();
            store.put(other, second.clone()).await.unwrap();
        }
    }
    assert_eq!(&content(&replica, Target::Latest).await.unwrap(), newest);
}

/// An object as Litestream 0.3 encodes it: blocks of 4 MiB, content checksum, age around it.
fn as_litestream(plain: &[u8], recipient: Option<&age::x25519::Recipient>) -> Vec<u8> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let info = FrameInfo::new().block_size(BlockSize::Max4MB).block_mode(BlockMode::Independent).content_checksum(true);
    let mut frame = FrameEncoder::with_frame_info(info, Vec::new());
    frame.write_all(plain).unwrap();
    let frame = frame.finish().unwrap();
    match recipient {
        Some(recipient) => age::encrypt(recipient, &frame).unwrap(),
        None => frame,
    }
}

/// The same frames with other salts, sums and sequence number; `chain` is where the pieces of the life stand.
fn drawn_anew(piece: &[u8], chain: &mut Option<sqlite_wal::Chain>) -> Vec<u8> {
    let (mut made, mut rest) = (Vec::new(), piece);
    if chain.is_none() {
        let (header, frames) = piece.split_first_chunk().unwrap();
        let header = sqlite_wal::Header::parse(header).unwrap();
        let header = sqlite_wal::Header { sequence: 0, salts: sqlite_wal::Salts([0x9c; 8]), ..header };
        made.extend(header.encode());
        (*chain, rest) = (Some(sqlite_wal::Chain::new(header)), frames);
    }
    let chain = chain.as_mut().unwrap();
    for frame in rest.chunks_exact(chain.header().page_size.frame_len()) {
        let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()).try_into().ok();
        made.extend(chain.append(number(0).unwrap(), number(4), &frame[24..]).unwrap());
        made.extend(&frame[24..]);
    }
    made
}

#[tokio::test]
async fn a_replica_litestream_wrote_is_restored() {
    use age::secrecy::ExposeSecret;
    let identity = age::x25519::Identity::generate();
    for recipient in [None, Some(identity.to_public())] {
        let ours = Replica::sqlite(Store::memory(), Codec::plain());
        let made = make(&ours, G, 4096, 3, 2).await;
        // Only its keys, in its encoding; nothing of what we keep in addition. The last life begins with salts that were drawn, as after a WAL
        // that was removed.
        let (store, mut drawn) = (Store::memory(), None);
        for object in ours.store().list("generations").await.unwrap() {
            let stored = ours.store().get(&object.key, 1 << 30).await.unwrap();
            let plain = ours.codec().decode(&stored, 1 << 30).unwrap();
            let plain =
                if object.key.contains("/wal/00000002_") { drawn_anew(&plain, &mut drawn) } else { plain.to_vec() };
            store.put(&object.key, as_litestream(&plain, recipient.as_ref()).into()).await.unwrap();
        }
        // And what its listings may hold besides.
        for name in ["wal/00000000_00000000.wal.lz4.tmp", "wal/0000000a.wal", "snapshots/latest", "generation"] {
            store.put(&format!("generations/{G}/{name}"), Bytes::from_static(b"?")).await.unwrap();
        }
        let none: [&str; 0] = [];
        let codec = Codec::new(&none, &[identity.to_string().expose_secret()]).unwrap();
        let replica = Replica::sqlite(store, codec);
        assert_eq!(content(&replica, Target::Latest).await.unwrap(), made.states.last().unwrap().dump);
        let (first, last) = (&made.states[0], made.states.last().unwrap());
        let target = Target::Position { index: first.index, offset: first.offset };
        assert_eq!(content(&replica, target).await.unwrap(), first.dump);
        let resume = replica.resume(G).await.unwrap().unwrap();
        assert_eq!((resume.index, resume.offset), (last.index, last.offset));
    }
}

#[tokio::test]
async fn nothing_that_exists_is_touched() {
    let replica = Replica::sqlite(Store::memory(), Codec::plain());
    let made = make(&replica, G, 4096, 1, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("app.db");
    for (name, content) in [("app.db", "mine"), ("app.db-wal", "old"), ("app.db-journal", "old")] {
        let there = folder.path().join(name);
        std::fs::write(&there, content).unwrap();
        let error = to_file(&replica, &Options::default(), &output).await.unwrap_err();
        assert!(error.is_refusal(), "{error}");
        assert_eq!(std::fs::read_to_string(&there).unwrap(), content);
        std::fs::remove_file(there).unwrap();
    }
    let restored = to_file(&replica, &Options::default(), &output).await.unwrap();
    assert_eq!(restored.bytes, std::fs::metadata(&output).unwrap().len());
    let last = made.states.last().unwrap();
    assert_eq!((restored.lives, restored.position), (1, (last.index, last.offset)));
}

#[tokio::test]
async fn no_replica_is_told_apart_from_a_broken_one() {
    let replica = Replica::sqlite(Store::memory(), Codec::plain());
    assert!(content(&replica, Target::Latest).await.unwrap_err().is_no_replica());
    // Pieces without a snapshot are no replica either.
    replica.put_piece(G, PieceName::sqlite(0, 0), Bytes::from_static(b"x"), Default::default()).await.unwrap();
    assert!(content(&replica, Target::Latest).await.unwrap_err().is_no_replica());
    replica.put_snapshot(G, 0, None, &b"no database at all"[..]).await.unwrap();
    let error = content(&replica, Target::Latest).await.unwrap_err();
    assert!(matches!(error, Error::Snapshot { .. }), "{error}");
    let without = Replica::sqlite(replica.store().clone(), encrypted());
    let other = Replica::sqlite(Store::memory(), encrypted());
    make(&other, G, 4096, 1, 1).await;
    let wrong = Replica::sqlite(other.store().clone(), without.codec().clone());
    match content(&wrong, Target::Latest).await.unwrap_err() {
        Error::Replica(error) => assert_eq!(error.kind(), Kind::Secret, "{error}"),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn pages_on_both_sides_of_the_lock_page_stand_where_they_belong() {
    use std::num::NonZeroU32;
    use std::os::unix::fs::FileExt;
    const PAGE: usize = 65536;
    // The page with the byte at 1 GiB is in no WAL.
    const LOCK_PAGE: u32 = 16385;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.db");
    open(&path).execute_batch("PRAGMA page_size = 65536; CREATE TABLE t (a); PRAGMA user_version = 1").unwrap();
    let snapshot = std::fs::read(&path).unwrap();
    let replica = Replica::sqlite(Store::memory(), Codec::plain());
    replica.put_snapshot(G, 0, None, &snapshot[..]).await.unwrap();
    let header = sqlite_wal::Header {
        order: sqlite_wal::ByteOrder::Big,
        page_size: sqlite_wal::PageSize::new(PAGE as u32).unwrap(),
        sequence: 1,
        salts: sqlite_wal::Salts([1; 8]),
    };
    let mut chain = sqlite_wal::Chain::new(header);
    let mut life = header.encode().to_vec();
    let pages = NonZeroU32::new(LOCK_PAGE + 5).unwrap();
    for (number, commit) in [(LOCK_PAGE - 1, None), (LOCK_PAGE + 1, None), (LOCK_PAGE + 5, Some(pages))] {
        let page = vec![number as u8; PAGE];
        life.extend(chain.append(NonZeroU32::new(number).unwrap(), commit, &page).unwrap());
        life.extend(page);
    }
    replica.put_piece(G, PieceName::sqlite(0, 0), life.into(), Default::default()).await.unwrap();
    let output = folder.path().join("wide.db");
    let restored = to_file(&replica, &Options::default(), &output).await.unwrap();
    assert_eq!(restored.bytes, u64::from(pages.get()) * PAGE as u64);
    let file = std::fs::File::open(&output).unwrap();
    for (number, expected) in [(LOCK_PAGE - 1, true), (LOCK_PAGE, false), (LOCK_PAGE + 1, true), (LOCK_PAGE + 5, true)]
    {
        let mut page = vec![0; PAGE];
        file.read_exact_at(&mut page, u64::from(number - 1) * PAGE as u64).unwrap();
        let byte = if expected { number as u8 } else { 0 };
        assert!(page.iter().all(|found| *found == byte), "page {number}");
    }
}
