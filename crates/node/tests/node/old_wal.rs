//! WAL that is archived goes from the disk and is read back from the archive: by readers, and by a safekeeper that was away.

use crate::client::Client;
use crate::messages::TENANT;
use crate::process::{Node, Setup};
use crate::session::{Push, START, init, init_command, wal};
use lsn::Lsn;
use std::path::Path;
use std::time::{Duration, Instant};
use wal_format::build::WalBuilder;

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(60);

/// Keeps next to nothing that is archived.
fn setup(id: u64, dir: &Path, archive: &Path) -> Setup {
    Setup { min_wal: MIB, archive: Some(archive.to_owned()), ..Setup::new(id, dir) }
}

/// Waits until WAL below this position has gone from the disk.
fn wait_for_oldest(node: &Node, at_least: u64) {
    let deadline = Instant::now() + SOON;
    loop {
        let status = node.client().row("LOG_STATUS");
        let oldest: Lsn = status["oldest_lsn"].parse().unwrap();
        if oldest.0 >= at_least {
            return;
        }
        assert!(Instant::now() < deadline, "still from {oldest} on; archived: {:?}", status["archived"]);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn read_from(node: &Node, from: u64, wal: &WalBuilder) {
    let mut client = Client::connect(node.pg, "");
    client.send_query(&format!("START_REPLICATION {}", Lsn(from)));
    assert_eq!(client.recv().tag, b'W');
    let (mut read, wanted) = (Vec::new(), wal.slice(Lsn(from), wal.end()));
    while read.len() < wanted.len() {
        let message = client.recv_copy_data();
        if message[0] == b'w' {
            read.extend_from_slice(&message[25..]);
        }
    }
    assert!(read == wanted);
}

#[test]
fn a_reader_goes_through_what_is_archived_to_what_is_here() {
    let (dir, archive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = setup(1, dir.path(), archive.path()).start();
    init(&node);
    let mut push = Push::leading(&node);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + 7 * MIB + 5000), 5000).0;
    push.append_all(&wal, START, START);
    push.commit(end, end);
    wait_for_oldest(&node, START + 6 * MIB);
    for from in [START, START + 3 * MIB + 8, end - 8000] {
        read_from(&node, from, &wal);
    }
    assert_eq!(node.client().row("SHOW seawall_oldest_lsn")["seawall_oldest_lsn"], Lsn(START).to_string());
    // An object that is gone is WAL that was removed; a damaged one is an error, never an end.
    let objects = objects(archive.path());
    let damaged = &objects[2];
    let mut bytes = std::fs::read(damaged).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(damaged, bytes).unwrap();
    std::fs::remove_file(&objects[4]).unwrap();
    let (_, setup) = node.stop();
    let node = setup.start();
    let refused = |from: u64| {
        let mut client = Client::connect(node.pg, "");
        client.send_query(&format!("START_REPLICATION {}", Lsn(from)));
        assert_eq!(client.recv().tag, b'W');
        loop {
            if let Some(refused) = client.recv().refused() {
                return refused;
            }
        }
    };
    let told = refused(START + 2 * MIB);
    assert!(told.code == "XX000" && told.text.contains("from the archive"), "{} {}", told.code, told.text);
    let told = refused(START + 4 * MIB);
    assert_eq!(told.code, "58P01", "{}", told.text);
    read_from(&node, START + 5 * MIB, &wal);
}

/// The merged segments of an archive, ascending.
fn objects(archive: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![archive.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.display().to_string().ends_with(".seg.lz4") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn one_that_was_away_learns_from_the_archive_while_no_peer_can_be_asked() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let [ahead_dir, behind_dir, archive] = dirs.each_ref().map(tempfile::TempDir::path);
    let (ahead, behind) = (setup(1, ahead_dir, archive).start(), setup(2, behind_dir, archive).start());
    let member = |id: u64, node: &Node| format!("{id}:{}@127.0.0.1:{}", node.disk(), node.pg.port());
    let record = format!("1/0/{};{}", member(1, &ahead), member(2, &behind));
    for node in [&ahead, &behind] {
        node.client().rows(&init_command("orders", TENANT, &record)).unwrap();
    }
    let mut push = Push::leading(&ahead);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + 6 * MIB + 5000), 5000).0;
    push.append_all(&wal, START, START);
    push.commit(end, end);
    wait_for_oldest(&ahead, START + 5 * MIB);
    drop(push);
    drop(ahead);
    let mut push = Push::leading(&behind);
    push.append(end, end, &[]);
    while push.acknowledged().flush < end {}
    read_from(&behind, START + 5 * MIB, &wal);
}
