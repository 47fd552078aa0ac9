//! Base backups: PostgreSQL's files and ours.

use backup_format::{BackupLabel, ControlFile, Manifest, Snapshot, TablespaceMap, chunk};
use bytes::Bytes;

pub(super) fn manifest(data: &[u8]) {
    let _ = Manifest::parse(data);
}

/// The first byte says how the rest is cut into pieces: however it is, the same parts come out.
pub(super) fn chunk(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let read = |piece: usize| {
        let mut decoder = chunk::Decoder::new();
        let (mut parts, mut given) = (Vec::new(), 0);
        for piece in bytes.chunks(piece.max(1)) {
            decoder.push(Bytes::copy_from_slice(piece));
            loop {
                match decoder.poll() {
                    Ok(Some(chunk::Event::Data { bytes, .. })) => given += bytes.len(),
                    Ok(Some(event)) => parts.push(event),
                    Ok(None) => break,
                    Err(error) => return (parts, Err(error.to_string())),
                }
            }
        }
        assert!(given <= data.len(), "bytes out of nowhere");
        (parts, Ok(given))
    };
    assert_eq!(read(usize::from(cut) + 1), read(bytes.len()));
}

pub(super) fn snapshot(data: &[u8]) {
    if let Ok(snapshot) = Snapshot::from_json(data) {
        assert_eq!(Snapshot::from_json(&snapshot.to_json()).ok(), Some(snapshot));
    }
}

pub(super) fn label(data: &[u8]) {
    let _ = (BackupLabel::parse(data).is_ok(), TablespaceMap::parse(data).is_ok());
}

pub(super) fn pg_control(data: &[u8]) {
    let _ = ControlFile::parse(data);
}
