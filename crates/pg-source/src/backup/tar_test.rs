//! Archives made by the `tar` crate, read in runs of any length; damaged, cut and foreign ones.

use super::*;
use proptest::prelude::*;

fn archive(files: &[(&str, Option<&[u8]>)], with_end: bool) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o600);
        header.set_mtime(1_700_000_000);
        header.set_entry_type(if content.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory });
        let content = content.unwrap_or_default();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    }
    let mut bytes = builder.into_inner().unwrap();
    if !with_end {
        bytes.truncate(bytes.len() - 2 * BLOCK);
    }
    bytes
}

type Contents = Vec<(String, Option<Vec<u8>>)>;

fn read(bytes: &[u8], run: usize) -> Result<Contents, TarError> {
    let mut reader = Reader::default();
    let mut contents = Contents::new();
    for run in bytes.chunks(run) {
        reader.push(Bytes::copy_from_slice(run));
        while let Some(event) = reader.poll()? {
            match event {
                Event::Entry(entry) => {
                    assert_eq!((entry.mode, entry.modified), (0o600, 1_700_000_000));
                    contents.push((entry.path.to_string(), (!entry.is_directory).then(Vec::new)));
                }
                Event::Data(bytes) => {
                    contents.last_mut().unwrap().1.as_mut().unwrap().extend_from_slice(&bytes);
                }
            }
        }
    }
    reader.finish()?;
    Ok(contents)
}

proptest! {
    #[test]
    fn contents_come_out_however_they_are_cut(
        sizes in proptest::collection::vec(0usize..2000, 0..6), run in 1usize..1500, with_end: bool
    ) {
        let files: Vec<(String, Vec<u8>)> =
            sizes.iter().enumerate().map(|(at, size)| (format!("base/{at}"), vec![at as u8 + 1; *size])).collect();
        let borrowed: Vec<(&str, Option<&[u8]>)> = files.iter().map(|(path, content)| (path.as_str(), Some(content.as_slice()))).collect();
        let contents = read(&archive(&borrowed, with_end), run).unwrap();
        prop_assert_eq!(contents, files.into_iter().map(|(path, content)| (path, Some(content))).collect::<Contents>());
    }

    #[test]
    fn any_bytes_are_an_error_at_worst(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes, 100);
    }

    #[test]
    fn a_damaged_header_is_an_error(at in 0usize..BLOCK, bit in 0u8..8) {
        let mut bytes = archive(&[("base", None), ("base/1", Some(b"x"))], true);
        bytes[at] ^= 1 << bit;
        // The sum is of seven digits in a field of eight bytes; what pads it does not count.
        prop_assert!(read(&bytes, 100).is_err() || (154..156).contains(&at));
    }
}

#[test]
fn names_lose_what_the_server_puts_around_them() {
    let bytes = archive(&[("pg_wal/", None), ("./pg_wal/archive_status", None)], true);
    let names: Vec<String> = read(&bytes, 512).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["pg_wal", "pg_wal/archive_status"]);
}

#[test]
fn cut_off_extended_or_linked_is_refused() {
    let bytes = archive(&[("a", Some(&[1; 700]))], false);
    for cut in [1, 511, 600, 1212, 1300] {
        assert!(matches!(read(&bytes[..cut], 100), Err(TarError::Truncated)), "{cut}");
    }
    let again = [archive(&[("a", Some(b"1"))], true), archive(&[("b", Some(b"2"))], true)].concat();
    assert!(matches!(read(&again, 100), Err(TarError::TrailingBytes)));
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    link.set_mtime(0);
    link.set_path("pg_tblspc/1").unwrap();
    link.set_cksum();
    assert!(matches!(read(link.as_bytes(), 512), Err(TarError::Kind(_))));
}

#[test]
fn sizes_beyond_octal_digits_are_understood() {
    let mut header = tar::Header::new_ustar();
    header.set_path("base/1").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_size(20 << 30);
    header.set_cksum();
    let mut reader = Reader::default();
    reader.push(Bytes::copy_from_slice(header.as_bytes()));
    let Some(Event::Entry(entry)) = reader.poll().unwrap() else { panic!("no entry") };
    assert_eq!(entry.size, 20 << 30);
}
