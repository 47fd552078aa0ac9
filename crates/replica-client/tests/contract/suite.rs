//! The suite: what holds on every store. Each part gets a fresh, empty one.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use lsn::{Lsn, SegmentSize, SystemId, Tli};
use replica_client::{
    Archive, Codec, CommitTimes, Conditions, Control, Created, Era, EraName, Error, Generation, Kind, Parent, Part,
    PieceName, Plain, Replica, SnapshotWritten, Store, Written,
};

const NONE: [&str; 0] = [];

/// Runs it all.
pub(crate) async fn all(mut open: impl FnMut() -> Store) {
    for codec in [Codec::plain(), both()] {
        pieces(open(), codec.clone()).await;
        sqlite_snapshots(open(), codec.clone()).await;
        postgres(open(), codec.clone()).await;
    }
    encrypt_only_resumes(open()).await;
    objects(open()).await;
    eras(open()).await;
    control(open()).await;
    lease(open()).await;
}

/// A recipient and its identity, made once for the test.
pub(crate) fn keys() -> (String, String) {
    use age::secrecy::ExposeSecret;
    let identity = age::x25519::Identity::generate();
    (identity.to_public().to_string(), identity.to_string().expose_secret().to_owned())
}

fn both() -> Codec {
    let (recipient, identity) = keys();
    Codec::new(&[recipient], &[identity]).unwrap()
}

pub(crate) fn bytes(seed: u8, length: usize) -> Bytes {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect::<Vec<_>>().into()
}

const G: Generation = Generation(0x0123_4567_89ab_cdef);
const TIMES: CommitTimes = CommitTimes { first: None, last: None };

async fn pieces(store: Store, codec: Codec) {
    let replica = Replica::sqlite(store, codec);
    assert_eq!(replica.generations().await.unwrap(), []);
    assert_eq!(replica.pieces(G, 0..=u64::MAX).await.unwrap(), []);
    let names = [
        PieceName::sqlite(0, 0),
        PieceName::sqlite(0, 4152),
        PieceName::sqlite(1, 0),
        PieceName::sqlite(1, 0x1_0000_0000),
        PieceName::sqlite(0x10, 0),
    ];
    for (seed, name) in names.iter().enumerate().rev() {
        let plain = bytes(seed as u8, 5000 + seed);
        let facts = Plain::of(&plain);
        let written = replica.put_piece(G, *name, plain.clone(), TIMES).await.unwrap();
        assert!(matches!(written, Written::New(f) | Written::Same(f) if f.plain == facts), "{written:?}");
        let again = replica.put_piece(G, *name, plain.clone(), TIMES).await.unwrap();
        assert!(matches!(again, Written::Same(f) if f.plain == facts), "{again:?}");
    }
    let other = Generation(7);
    replica.put_piece(other, names[0], bytes(9, 10), TIMES).await.unwrap();
    assert_eq!(replica.generations().await.unwrap(), [other, G]);

    // In order, in any range, with facts and bytes.
    let listed = replica.pieces(G, 0..=u64::MAX).await.unwrap();
    assert_eq!(listed.iter().map(|piece| piece.name).collect::<Vec<_>>(), names);
    let middle: Vec<_> = replica.pieces(G, 1..=2).await.unwrap().iter().map(|piece| piece.name).collect();
    assert_eq!(middle, names[2..4]);
    assert_eq!(replica.pieces(G, 2..=15).await.unwrap(), []);
    for (seed, name) in names.iter().enumerate() {
        let plain = bytes(seed as u8, 5000 + seed);
        assert_eq!(replica.read_piece(G, *name).await.unwrap(), plain);
        if let Some(facts) = replica.piece_facts(G, *name).await.unwrap() {
            assert_eq!(facts.plain, Plain::of(&plain));
        } else {
            assert!(!replica.codec().encrypts(), "an encrypted piece has facts");
        }
    }

    // Never replaced: not by other bytes, not by fewer, not by more. More is offered as a continuation.
    let there = bytes(1, 5001);
    for (ours, kind) in [(bytes(2, 5001), "other"), (there.slice(..100), "fewer"), (bytes(2, 6000), "more, other")] {
        let error = replica.put_piece(G, names[1], ours, TIMES).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Different, "{kind}: {error}");
        assert!(error.to_string().contains("00000000_00001038.wal.lz4"), "{error}");
    }
    let longer: Bytes = [&there[..], b"more"].concat().into();
    let written = replica.put_piece(G, names[1], longer, TIMES).await.unwrap();
    assert!(matches!(written, Written::Prefix(facts) if facts.plain == Plain::of(&there)), "{written:?}");
    assert_eq!(replica.read_piece(G, names[1]).await.unwrap(), there);

    // What is wrong with a call.
    for (name, plain) in [(PieceName::segment(0), bytes(0, 5)), (PieceName::sqlite(2, 0), Bytes::new())] {
        assert_eq!(replica.put_piece(G, name, plain, TIMES).await.unwrap_err().kind(), Kind::Usage);
    }
    let missing = PieceName::sqlite(3, 0);
    assert_eq!(replica.read_piece(G, missing).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(replica.piece_facts(G, missing).await.unwrap_err().kind(), Kind::NotFound);

    // Deleting, twice.
    assert_eq!(replica.delete_pieces(G, &names[..2]).await.unwrap(), 2);
    assert_eq!(replica.delete_pieces(G, &names[..2]).await.unwrap(), 2);
    assert_eq!(replica.pieces(G, 0..=u64::MAX).await.unwrap().len(), 3);
    assert!(replica.delete_generation(G).await.unwrap() >= 3);
    assert_eq!(replica.delete_generation(G).await.unwrap(), 0);
    assert_eq!(replica.generations().await.unwrap(), [other]);
    assert_eq!(replica.store().list("seawall/facts/generations/0123456789abcdef").await.unwrap(), []);
}

async fn sqlite_snapshots(store: Store, codec: Codec) {
    let replica = Replica::sqlite(store.clone(), codec);
    assert_eq!(replica.resume(G).await.unwrap(), None);
    // One put, and many parts.
    let noise = |length: usize| {
        let mut state = 88_172_645_463_325_252u64;
        let step = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(step).collect::<Vec<u8>>()
    };
    let many_parts = if replica.codec().encrypts() { 1 << 20 } else { 9 << 20 };
    for (index, length) in [(3, 0), (1, 100_000), (2, many_parts)] {
        let plain = noise(length);
        let written = replica.put_snapshot(G, index, Some(length as u64), &plain[..]).await.unwrap();
        if !matches!(written, SnapshotWritten::Exists) {
            assert_eq!(written, SnapshotWritten::New(Plain::of(&plain)));
            assert_eq!(replica.snapshot_facts(G, index).await.unwrap().unwrap().plain, Plain::of(&plain));
        }
        let again = replica.put_snapshot(G, index, None, &b"another moment"[..]).await.unwrap();
        assert_eq!(again, SnapshotWritten::Exists);
        let reader = replica.open_snapshot(G, index).unwrap().expect(Plain::of(&plain));
        assert!(reader.read_all(64 << 20).await.unwrap() == plain);
    }
    let infos = replica.snapshots(G).await.unwrap();
    assert_eq!(infos.iter().map(|info| info.at).collect::<Vec<_>>(), [1, 2, 3]);
    let error = replica.open_snapshot(G, 1).unwrap().expect(Plain::EMPTY).read_all(1 << 20).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let error = replica.open_snapshot(G, 1).unwrap().read_all(99_999).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let error = replica.put_snapshot(G, 9, None, Failing(0)).await.unwrap_err();
    assert!(error.to_string().contains("00000009.snapshot.lz4"), "{error}");
    assert_eq!(replica.snapshots(G).await.unwrap().len(), 3);

    // For threads.
    let reader = replica.open_snapshot(G, 1).unwrap();
    let runtime = tokio::runtime::Handle::current();
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        reader.blocking(runtime).read_to_end(&mut all).map(|_| all)
    });
    assert!(read.await.unwrap().unwrap() == noise(100_000));

    // Uploading goes on behind the newest snapshot, or the last piece.
    let resume = replica.resume(G).await.unwrap().unwrap();
    assert_eq!((resume.snapshot, resume.index, resume.offset, resume.last), (3, 3, 0, None));
    let (name, plain) = (PieceName::sqlite(4, 32), bytes(4, 777));
    replica.put_piece(G, name, plain.clone(), TIMES).await.unwrap();
    let resume = replica.resume(G).await.unwrap().unwrap();
    assert_eq!((resume.index, resume.offset, resume.last), (4, 809, Some((name, Plain::of(&plain)))));

    // How long a life was is told with the first piece of the next, also after a restart.
    let replica = Replica::sqlite(store.clone(), replica.codec().clone());
    replica.resume(G).await.unwrap();
    replica.put_piece(G, PieceName::sqlite(4, 809), bytes(1, 91), TIMES).await.unwrap();
    assert_eq!(replica.lives(G).await.unwrap(), BTreeMap::new());
    replica.put_piece(G, PieceName::sqlite(5, 0), bytes(1, 50), TIMES).await.unwrap();
    assert_eq!(replica.lives(G).await.unwrap(), BTreeMap::from([(4, 900)]));
    replica.put_piece(G, PieceName::sqlite(6, 0), bytes(2, 50), TIMES).await.unwrap();
    assert_eq!(replica.lives(G).await.unwrap(), BTreeMap::from([(4, 900), (5, 50)]));
    replica.delete_pieces(G, &[PieceName::sqlite(5, 0)]).await.unwrap();
    assert_eq!(replica.lives(G).await.unwrap(), BTreeMap::from([(4, 900)]));

    assert_eq!(replica.delete_snapshot(G, 2).await.unwrap(), 1);
    assert_eq!(replica.delete_snapshot(G, 2).await.unwrap(), 1);
    assert_eq!(replica.snapshots(G).await.unwrap().len(), 2);
}

struct Failing(usize);

impl tokio::io::AsyncRead for Failing {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.0 += 1;
        std::task::Poll::Ready(if self.0 < 100 {
            buffer.put_slice(&vec![7; buffer.remaining().min(100_000)]);
            Ok(())
        } else {
            Err(std::io::Error::other("the disk is gone"))
        })
    }
}

async fn encrypt_only_resumes(store: Store) {
    let (recipient, identity) = keys();
    let writer = Replica::sqlite(store.clone(), Codec::new(&[&recipient], &NONE).unwrap());
    let mut offset = 0;
    writer.put_snapshot(G, 0, None, &b"the database"[..]).await.unwrap();
    for round in 0..10u8 {
        // As after a restart: everything from the replica.
        let writer = Replica::sqlite(store.clone(), Codec::new(&[&recipient], &NONE).unwrap());
        let resume = writer.resume(G).await.unwrap().unwrap();
        assert_eq!((resume.index, resume.offset), (0, offset), "round {round}");
        let plain = bytes(round, 1000 + usize::from(round));
        let name = PieceName::sqlite(0, offset);
        writer.put_piece(G, name, plain.clone(), TIMES).await.unwrap();
        assert!(matches!(writer.put_piece(G, name, plain.clone(), TIMES).await.unwrap(), Written::Same(_)));
        let other = bytes(round ^ 0x80, plain.len());
        assert_eq!(writer.put_piece(G, name, other, TIMES).await.unwrap_err().kind(), Kind::Different);
        assert_eq!(writer.read_piece(G, name).await.unwrap_err().kind(), Kind::Secret);
        offset += plain.len() as u64;
    }
    let reader = Replica::sqlite(store.clone(), Codec::new(&NONE, &[identity]).unwrap());
    for piece in reader.pieces(G, 0..=0).await.unwrap() {
        reader.read_piece(G, piece.name).await.unwrap();
    }
    let error = Replica::sqlite(store, Codec::plain()).open_snapshot(G, 0).unwrap().read_all(100).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Secret);
    assert!(error.to_string().contains("00000000.snapshot.lz4"), "{error}");
}

fn era(system: u64, name: &str) -> Era {
    Era {
        system_id: SystemId(system),
        name: EraName::parse(name).unwrap(),
        segment_size: SegmentSize::new(1 << 20).unwrap(),
        server_version: 150_013,
        cluster: "orders".to_owned(),
        previous: None,
    }
}

async fn postgres(store: Store, codec: Codec) {
    let archive = Archive::new(store, codec);
    let replica = archive.claim(&era(7_000_000_000_000_000_001, "a1")).await.unwrap();
    let root = Generation::of_tli(0, Tli(1));
    let segment = bytes(3, 1 << 20);
    let part = |from: usize, to: usize| (PieceName::of_segment(2, from as u64..to as u64), segment.slice(from..to));
    for (name, plain) in [part(0, 8192), part(8192, 500_000), part(8192, 1 << 20)] {
        replica.put_piece(root, name, plain.clone(), TIMES).await.unwrap();
        assert_eq!(replica.read_piece(root, name).await.unwrap(), plain);
    }
    replica.put_piece(root, PieceName::segment(2), segment.clone(), TIMES).await.unwrap();
    let error = replica.put_piece(root, part(0, 8192).0, bytes(8, 8192), TIMES).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Different, "{error}");
    for (name, plain) in [
        (PieceName::segment(3), bytes(1, 100)),
        (PieceName::of_segment(3, 0..200), bytes(1, 100)),
        (PieceName::of_segment(3, 1_048_000..1_048_600), bytes(1, 600)),
    ] {
        assert_eq!(replica.put_piece(root, name, plain, TIMES).await.unwrap_err().kind(), Kind::Usage, "{name:?}");
    }
    let names: Vec<_> = replica.pieces(root, 0..=9).await.unwrap().iter().map(|piece| piece.name).collect();
    let spans: Vec<_> = names.iter().map(|name| name.span(replica.era().segment_size).unwrap()).collect();
    let uses = replica_client::cover::cover(&spans, 0..1 << 20).unwrap();
    assert_eq!(uses.len(), 1);

    // An object under another's name is noticed.
    let key = format!("generations/{root}/wal/0000000000000002_00000000_00002000.wal.lz4");
    let short = replica.store().get(&key, 1 << 20).await.unwrap();
    let wrong = format!("generations/{root}/wal/0000000000000005_00000000_00001fff.wal.lz4");
    replica.store().put(&wrong, short).await.unwrap();
    let error = replica.read_piece(root, PieceName::of_segment(5, 0..0x1fff)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("0000000000000005_"), "{error}");
    let wrong = format!("generations/{root}/wal/0000000000000006_00000000_00002001.wal.lz4");
    replica.store().put(&wrong, replica.store().get(&key, 1 << 20).await.unwrap()).await.unwrap();
    let error = replica.read_piece(root, PieceName::of_segment(6, 0..0x2001)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");

    // Lineage.
    let child = Generation::of_tli(0x8a0c_44f1, Tli(2));
    let parent = Parent::Of { generation: root, switch: Lsn(0x0306_3b90) };
    assert_eq!(replica.parent(child).await.unwrap(), None);
    replica.put_parent(root, Parent::Root).await.unwrap();
    replica.put_parent(child, parent).await.unwrap();
    assert_eq!(replica.put_parent(child, parent).await.unwrap(), Created::Same);
    assert_eq!(replica.put_parent(child, Parent::Root).await.unwrap_err().kind(), Kind::Different);
    let lineages = replica.lineages().await.unwrap();
    assert_eq!(lineages, BTreeMap::from([(root, Some(Parent::Root)), (child, Some(parent))]));
    let history = Bytes::from_static(b"1\t0/3063B90\tno recovery target specified\n");
    assert_eq!(replica.history(child).await.unwrap(), None);
    replica.put_history(child, history.clone()).await.unwrap();
    assert_eq!(replica.history(child).await.unwrap(), Some(history));
    let error = replica.put_history(child, Bytes::from_static(b"1\t0/4063B90\tx\n")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Different);

    // Snapshots exist with their last object.
    let lsn = Lsn(0x0200_0028);
    let writer = replica.begin_snapshot(root, lsn).await.unwrap();
    let chunk = bytes(5, 300_000);
    assert_eq!(writer.put_part(Part::Chunk(0), &chunk[..]).await.unwrap(), Plain::of(&chunk));
    let (a, b) = (writer.clone(), writer.clone());
    let (one, two) = (chunk.clone(), bytes(6, 10));
    let both = tokio::join!(a.put_part_bytes(Part::Chunk(1), one), b.put_part_bytes(Part::Manifest, two));
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(replica.snapshots(root).await.unwrap(), []);
    assert_eq!(replica.unfinished_snapshots(root).await.unwrap(), [lsn]);
    assert_eq!(replica.read_snapshot(root, lsn).await.unwrap_err().kind(), Kind::NotFound);

    // An interrupted one is thrown away by the next attempt.
    let writer = replica.begin_snapshot(root, lsn).await.unwrap();
    assert_eq!(replica.snapshot_parts(root, lsn).await.unwrap(), []);
    writer.put_part_bytes(Part::Chunk(0), chunk.clone()).await.unwrap();
    assert_eq!(writer.clone().finish(b"no json").await.unwrap_err().kind(), Kind::Usage);
    assert!(!writer.exists().await.unwrap());
    writer.clone().finish(b"{\"version\":1}").await.unwrap();
    assert!(writer.exists().await.unwrap());
    assert_eq!(writer.clone().finish(b"{\"version\":2}").await.unwrap_err().kind(), Kind::Different);
    assert_eq!(writer.abandon().await.unwrap_err().kind(), Kind::Different);
    assert_eq!(replica.begin_snapshot(root, lsn).await.unwrap_err().kind(), Kind::Different);
    assert_eq!(replica.read_snapshot(root, lsn).await.unwrap(), Bytes::from_static(b"{\"version\":1}"));
    let snapshots = replica.snapshots(root).await.unwrap();
    assert_eq!(snapshots.iter().map(|snapshot| snapshot.at).collect::<Vec<_>>(), [lsn.0]);
    let parts = replica.snapshot_parts(root, lsn).await.unwrap();
    assert_eq!(parts.iter().map(|(part, _)| *part).collect::<Vec<_>>(), [Part::Chunk(0)]);
    assert_eq!(replica.open_part(root, lsn, Part::Chunk(0)).unwrap().read_all(1 << 20).await.unwrap(), chunk);
    assert_eq!(replica.delete_snapshot(root, lsn.0).await.unwrap(), 1);
    assert_eq!(replica.snapshots(root).await.unwrap(), []);
    assert_eq!(replica.unfinished_snapshots(root).await.unwrap(), []);
}

async fn eras(store: Store) {
    let archive = Archive::new(store.below("some/archive"), Codec::plain());
    assert_eq!(archive.eras().await.unwrap(), []);
    assert_eq!(archive.only().await.unwrap_err().kind(), Kind::NotFound);
    let first = era(7, "a1");
    archive.claim(&first).await.unwrap();
    let renamed = Era { cluster: "other name".to_owned(), ..first.clone() };
    assert_eq!(archive.claim(&renamed).await.unwrap().era(), &first);
    let grown = Era { segment_size: SegmentSize::DEFAULT, ..first.clone() };
    assert_eq!(archive.claim(&grown).await.unwrap_err().kind(), Kind::Different);
    assert_eq!(archive.only().await.unwrap().era(), &first);
    let second = Era { previous: Some(first.name.clone()), ..era(7, "b2") };
    archive.claim(&second).await.unwrap();
    assert_eq!(archive.only().await.unwrap().era(), &second);
    archive.claim(&era(8, "c3")).await.unwrap();
    let error = archive.only().await.unwrap_err().to_string();
    assert!(error.contains("7 era b2") && error.contains("8 era c3"), "{error}");
    assert_eq!(archive.eras().await.unwrap().len(), 3);
    let missing = archive.open(SystemId(9), &first.name).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    // An era object that is damaged, or another era's, opens nothing.
    let key = "some/archive/postgres/7/a1/era.json";
    let object = store.get(key, 10_000).await.unwrap();
    let mut damaged = object.to_vec();
    damaged[60] ^= 1;
    store.put(key, damaged.into()).await.unwrap();
    assert_eq!(archive.open(SystemId(7), &first.name).await.unwrap_err().kind(), Kind::Corrupt);
    store.put("some/archive/postgres/7/b2/era.json", object).await.unwrap();
    assert_eq!(archive.open(SystemId(7), &second.name).await.unwrap_err().kind(), Kind::Corrupt);
}

async fn objects(store: Store) {
    let store = store.below("//x/");
    assert_eq!(store.list("").await.unwrap(), []);
    for key in ["b/2", "a", "b/1", "b/c/1"] {
        assert!(store.create(key, Bytes::from(key.to_owned())).await.is_ok());
    }
    let keys = |list: Vec<replica_client::ObjectInfo>| list.into_iter().map(|object| object.key).collect::<Vec<_>>();
    assert_eq!(keys(store.list("").await.unwrap()), ["a", "b/1", "b/2", "b/c/1"]);
    assert_eq!(keys(store.list("b").await.unwrap()), ["b/1", "b/2", "b/c/1"]);
    assert_eq!(keys(store.list("b/c").await.unwrap()), ["b/c/1"]);
    assert_eq!(store.folders("").await.unwrap(), ["b"]);
    assert_eq!(store.folders("b").await.unwrap(), ["c"]);
    assert_eq!(store.create("a", Bytes::from_static(b"a")).await.unwrap(), Created::Same);
    for other in [&b"b"[..], b"", b"ab"] {
        let error = store.create("a", Bytes::copy_from_slice(other)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Different);
    }
    assert_eq!(store.get("a", 1).await.unwrap(), "a");
    assert_eq!(store.head("b/1").await.unwrap().unwrap().stored, 3);
    assert_eq!(store.head("b/9").await.unwrap(), None);
    assert!(matches!(store.get("b/1", 2).await, Err(Error::TooLarge { limit: 2, .. })));
    assert_eq!(store.get("nothing", 2).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(store.get("a/../b", 2).await.unwrap_err().kind(), Kind::Usage);
    let many: Vec<String> = (0..2500).map(|number| format!("many/{number}")).collect();
    for key in many.iter().step_by(50) {
        store.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!(store.delete(many).await.unwrap(), 2500);
    assert_eq!(store.list("many").await.unwrap(), []);
    assert_eq!(keys(store.list("").await.unwrap()).len(), 4);
}

async fn control(store: Store) {
    for replica in [
        Replica::sqlite(store.below("s"), Codec::plain()),
        Replica::postgres(store.below("p"), Codec::plain(), SegmentSize::DEFAULT),
    ] {
        assert_eq!(replica.control_list(Control::Hold).await.unwrap(), []);
        let text = |text: &'static str| Bytes::from_static(text.as_bytes());
        replica.control_put(Control::Hold, "b.json", text("1")).await.unwrap();
        replica.control_put(Control::Hold, "b.json", text("22")).await.unwrap();
        replica.control_create(Control::Tombstone, "20251120T120000Z-7.json", text("{}")).await.unwrap();
        let error = replica.control_create(Control::Tombstone, "20251120T120000Z-7.json", text("{1}")).await;
        assert_eq!(error.unwrap_err().kind(), Kind::Different);
        assert_eq!(replica.control_get(Control::Hold, "b.json").await.unwrap(), Some(text("22")));
        assert_eq!(replica.control_get(Control::Hold, "c").await.unwrap(), None);
        let holds = replica.control_list(Control::Hold).await.unwrap();
        assert_eq!((holds.len(), &*holds[0].name, holds[0].stored), (1, "b.json", 2));
        for bad in ["", ".", "..", "a/b", "ä", ".hidden"] {
            assert_eq!(replica.control_put(Control::Hold, bad, text("")).await.unwrap_err().kind(), Kind::Usage);
        }
        replica.control_delete(Control::Hold, &["b.json".to_owned(), "c".to_owned()]).await.unwrap();
        assert_eq!(replica.control_list(Control::Hold).await.unwrap(), []);
        assert_eq!(replica.generations().await.unwrap(), []);
    }
}

async fn lease(store: Store) {
    let replica = Replica::sqlite(store.clone(), Codec::plain());
    let (short, none) = (Duration::from_millis(600), Duration::ZERO);
    if store.probe().await.unwrap() == Conditions::Unconditional {
        let error = replica.acquire_lease("a", short, none).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        return;
    }
    let mut first = replica.acquire_lease("a", Duration::from_secs(600), none).await.unwrap();
    assert!(first.still_held());
    first.renew().await.unwrap();
    let error = replica.acquire_lease("b", short, none).await.unwrap_err();
    assert!(matches!(&error, Error::Busy { holder } if holder == "a"), "{error}");
    first.release().await.unwrap();

    // One of many gets it, and keeps it for longer than the last of them takes to ask.
    let contenders = (0..5).map(|number| {
        let replica = replica.clone();
        let held = Duration::from_secs(5);
        tokio::spawn(async move { replica.acquire_lease(&format!("c{number}"), held, Duration::ZERO).await })
    });
    let mut holders = Vec::new();
    for contender in contenders.collect::<Vec<_>>() {
        holders.extend(contender.await.unwrap().ok());
    }
    assert!(holders.len() <= 1, "{} holders", holders.len());
    drop(holders);

    // Taken over from one that does not renew, and noticed by it.
    let mut lost = replica.acquire_lease("sleeper", short, Duration::from_secs(20)).await.unwrap();
    // It holds it for long: however slow the store is, only the one that slept has lost anything.
    let mut taken = replica.acquire_lease("d", Duration::from_secs(600), Duration::from_secs(20)).await.unwrap();
    assert!(!lost.still_held(), "the new holder waited for all of the time");
    assert_eq!(lost.renew().await.unwrap_err().kind(), Kind::Busy);
    // Also when the object it would make is free again.
    for _ in 0..4 {
        taken.renew().await.unwrap();
        assert_eq!(lost.renew().await.unwrap_err().kind(), Kind::Busy);
    }
    assert!(taken.still_held());
    assert!(store.list("seawall/lease").await.unwrap().len() <= 3);
}
