//! Files of a made-up `pg_wal` on their way into an archive in memory.

use super::*;
use replica_client::{Kind, Store};
use wal_format::build::WalBuilder;
use wal_format::record;

const MIB: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::new(MIB).unwrap()
}

async fn pusher(folder: &Path) -> Pusher {
    let identity = Identity { system_id: WalBuilder::SYSTEM_ID, size: size(), tli: Tli(1), number: SegmentNumber(1) };
    let era = Era {
        system_id: identity.system_id,
        name: EraName::parse("solo-1").unwrap(),
        segment_size: identity.size,
        server_version: 0,
        cluster: String::new(),
        previous: None,
    };
    let replica = Archive::new(Store::memory(), Codec::plain()).claim(&era).await.unwrap();
    Pusher { replica, folder: folder.to_path_buf(), identity, generations: BTreeMap::new() }
}

/// A new process finds the archive as the one before left it.
fn again(pusher: &Pusher) -> Pusher {
    let (replica, folder) = (pusher.replica.clone(), pusher.folder.clone());
    Pusher { replica, folder, identity: pusher.identity, generations: BTreeMap::new() }
}

fn segment(wal: &WalBuilder, number: u64) -> Vec<u8> {
    let end = wal.end().min(Lsn((number + 1) * MIB));
    let mut bytes = wal.slice(Lsn(number * MIB), end).to_vec();
    bytes.resize(MIB as usize, 0);
    bytes
}

#[test]
fn names_that_postgresql_offers() {
    for (name, offer) in [
        ("00000001000000000000000A", Some(Offered::Segment)),
        ("00000002.history", Some(Offered::History(Tli(2)))),
        ("00000001000000000000000A.00000028.backup", Some(Offered::NotNeeded)),
        ("00000001000000000000000A.partial", Some(Offered::NotNeeded)),
        ("00000001000000000000000a", None),
        ("00000001000000000000000A.old", None),
        ("00000001000000000000000A.0000028.backup", None),
        ("", None),
        ("éééééééééééé", None),
    ] {
        assert_eq!(offered(name), offer, "{name}");
    }
}

#[tokio::test]
async fn the_same_again_is_success_and_other_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = WalBuilder::new(size(), Lsn(MIB));
    wal.fill_to(Lsn(2 * MIB), 500);
    let mut other = WalBuilder::new(size(), Lsn(MIB));
    other.fill_to(Lsn(2 * MIB), 501);
    let name = size().file_name(Tli(1), SegmentNumber(1));
    let mut first = pusher(folder.path()).await;
    first.one(&name, segment(&wal, 1)).await.unwrap();
    again(&first).one(&name, segment(&wal, 1)).await.unwrap();
    let error = again(&first).one(&name, segment(&other, 1)).await.unwrap_err();
    assert!(matches!(&error, WalPushError::Replica(error) if error.kind() == Kind::Different), "{error}");
    let root = Generation::of_tli(0, Tli(1));
    let kept = first.replica.read_piece(root, PieceName::segment(1)).await.unwrap();
    assert_eq!(kept, segment(&wal, 1));
    assert_eq!(first.replica.parent(root).await.unwrap(), Some(Parent::Root));
}

#[tokio::test]
async fn what_is_no_sound_wal_is_not_archived() {
    let folder = tempfile::tempdir().unwrap();
    let mut wal = WalBuilder::new(size(), Lsn(MIB));
    wal.fill_to(Lsn(2 * MIB), 500);
    let whole = segment(&wal, 1);
    let name = size().file_name(Tli(1), SegmentNumber(1));
    let mut pusher = pusher(folder.path()).await;
    let mut damaged = whole.clone();
    damaged[500_000] ^= 1;
    assert!(matches!(pusher.one(&name, damaged).await, Err(WalPushError::Damaged { .. })));
    assert!(matches!(pusher.one(&name, whole[..9000].to_vec()).await, Err(WalPushError::NotWal { .. })));
    assert!(matches!(pusher.one(&name, Vec::new()).await, Err(WalPushError::NotWal { .. })));
    let elsewhere = size().file_name(Tli(1), SegmentNumber(2));
    assert!(matches!(pusher.one(&elsewhere, whole.clone()).await, Err(WalPushError::NotWal { .. })));
    let foreign = WalBuilder::new(size(), Lsn(MIB)).with_system_id(SystemId(9));
    let mut foreign = foreign;
    foreign.fill_to(Lsn(2 * MIB), 500);
    assert!(matches!(pusher.one(&name, segment(&foreign, 1)).await, Err(WalPushError::NotWal { .. })));
    assert!(pusher.replica.pieces(Generation::of_tli(0, Tli(1)), 0..=u64::MAX).await.unwrap().is_empty());
    pusher.one(&name, whole).await.unwrap();
}

/// A promoted server archives the history first, when the record that names the generation may not be written yet; later its first
/// segment is gone from `pg_wal`, and the archive knows the generation.
#[tokio::test]
async fn a_tli_is_named_by_its_first_record_and_linked_to_the_one_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let pg_wal = folder.path();
    let mut wal = WalBuilder::new(size(), Lsn(MIB));
    wal.fill_to(Lsn(MIB + 70_000), 500);
    let switch = wal.end();
    let before = segment(&wal, 1);
    wal.set_tli(Tli(2));
    wal.record_of(record::RMGR_XLOG, record::XLOG_END_OF_RECOVERY, &[1; 30]);
    let mark = wal.records().last().unwrap().crc;
    wal.fill_to(Lsn(3 * MIB), 500);
    let history = format!("1\t{switch}\tno recovery target specified\n");
    let (first, second) = (size().file_name(Tli(2), SegmentNumber(1)), size().file_name(Tli(2), SegmentNumber(2)));
    let mut old = pusher(pg_wal).await;
    let mut whole = WalBuilder::new(size(), Lsn(MIB));
    whole.fill_to(Lsn(2 * MIB), 500);
    old.one(&size().file_name(Tli(1), SegmentNumber(1)), segment(&whole, 1)).await.unwrap();

    fs::write(pg_wal.join("00000002.history"), &history).unwrap();
    let early = again(&old).one("00000002.history", history.clone().into_bytes()).await;
    assert!(matches!(early, Err(WalPushError::Beginning(Tli(2)))), "{early:?}");
    fs::write(pg_wal.join(&first), &before).unwrap();
    assert!(again(&old).one("00000002.history", history.clone().into_bytes()).await.is_err());
    fs::write(pg_wal.join(&first), segment(&wal, 1)).unwrap();
    again(&old).one("00000002.history", history.clone().into_bytes()).await.unwrap();
    let (root, two) = (Generation::of_tli(0, Tli(1)), Generation::of_tli(mark, Tli(2)));
    assert_eq!(old.replica.parent(two).await.unwrap(), Some(Parent::Of { generation: root, switch }));
    assert_eq!(old.replica.history(two).await.unwrap().unwrap(), history.clone().into_bytes());
    again(&old).one(&first, segment(&wal, 1)).await.unwrap();
    fs::remove_file(pg_wal.join(&first)).unwrap();
    again(&old).one(&second, segment(&wal, 2)).await.unwrap();
    assert_eq!(old.replica.pieces(two, 0..=u64::MAX).await.unwrap().len(), 2);
    let error = again(&old).one("00000003.history", b"nonsense".to_vec()).await.unwrap_err();
    assert!(matches!(error, WalPushError::History { .. }), "{error}");
}

#[test]
fn a_mark_is_believed_once_and_for_the_same_bytes_only() {
    let folder = tempfile::tempdir().unwrap();
    let marks = Marks { folder: folder.path().join("marks"), kept: true };
    assert!(!marks.take("a", b"bytes"));
    marks.put("a", crc32c::crc32c(b"bytes"));
    assert!(!marks.take("a", b"other"));
    assert!(!marks.take("a", b"bytes"), "a mark that was wrong is gone");
    marks.put("a", crc32c::crc32c(b"bytes"));
    assert!(marks.take("a", b"bytes"));
    assert!(!marks.take("a", b"bytes"));
}
