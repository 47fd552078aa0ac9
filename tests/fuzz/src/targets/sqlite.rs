//! SQLite's WAL.

use sqlite_wal::Stream;

/// The first byte says how the rest is cut into pieces: however it is, the same frames count and the same end is found.
pub(super) fn wal(data: &[u8]) {
    let Some((&cut, wal)) = data.split_first() else { return };
    let read = |piece: usize| {
        let mut stream = Stream::new();
        let mut frames = Vec::new();
        for mut piece in wal.chunks(piece.max(1)) {
            loop {
                match stream.next(&mut piece) {
                    Ok(Some(frame)) => frames.push((frame.offset, frame.page_number, frame.commit)),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error.to_string())),
                }
            }
        }
        (frames, stream.finish().map(|end| format!("{end:?}")).map_err(|error| error.to_string()))
    };
    assert_eq!(read(usize::from(cut) + 1), read(wal.len()));
}
