//! What arrived against what the manifest says was sent.

use super::error::BackupError;
use super::pages::Pages;
use backup_format::{Checksum, ChecksumAlgorithm, DamagedPage, DataPath, Hasher, Manifest};
use lsn::Lsn;
use std::collections::{HashMap, HashSet};

/// Follows the files of a backup.
#[derive(Debug)]
pub(super) struct Verifier {
    algorithm: ChecksumAlgorithm,
    pages: Option<Pages>,
    open: Option<(DataPath, u64, Hasher)>,
    seen: HashMap<DataPath, (u64, Checksum)>,
    bytes: u64,
}

impl Verifier {
    /// Page checksums are followed if the backup's beginning is given.
    pub(super) fn new(algorithm: ChecksumAlgorithm, pages: Option<Lsn>) -> Verifier {
        Verifier { algorithm, pages: pages.map(Pages::new), open: None, seen: HashMap::new(), bytes: 0 }
    }

    /// A file begins.
    pub(super) fn file(&mut self, path: &DataPath, size: u64) -> Result<(), BackupError> {
        self.close();
        if self.seen.contains_key(path) {
            return Err(BackupError::Twice(path.clone()));
        }
        if let Some(pages) = &mut self.pages {
            pages.file(path);
        }
        self.open = Some((path.clone(), size, Hasher::new(self.algorithm)));
        self.bytes = self.bytes.saturating_add(size);
        Ok(())
    }

    /// Bytes of it.
    pub(super) fn data(&mut self, bytes: &[u8]) {
        if let Some((_, _, hasher)) = &mut self.open {
            hasher.update(bytes);
        }
        if let Some(pages) = &mut self.pages {
            pages.data(bytes);
        }
    }

    fn close(&mut self) {
        if let Some((path, size, hasher)) = self.open.take() {
            self.seen.insert(path, (size, hasher.finish()));
        }
    }

    /// Every file of the manifest came, as it says, and no other but WAL, which it does not list.
    pub(super) fn check(&mut self, manifest: &Manifest) -> Result<(), BackupError> {
        self.close();
        let mut names = HashSet::with_capacity(manifest.files.len());
        for file in &manifest.files {
            let differs = |difference| BackupError::Differs { path: file.path.clone(), difference };
            let Some((size, checksum)) = self.seen.get(&file.path) else {
                return Err(differs("it did not come".to_owned()));
            };
            if *size != file.size {
                return Err(differs(format!("{size} bytes came, not {}", file.size)));
            }
            if *checksum != file.checksum {
                return Err(differs(format!("its checksum is {checksum:?}, not {:?}", file.checksum)));
            }
            names.insert(&file.path);
        }
        let extra = self.seen.keys().find(|path| !names.contains(path) && !path.as_bytes().starts_with(b"pg_wal/"));
        if let Some(path) = extra {
            return Err(BackupError::Differs { path: path.clone(), difference: "it is not listed".to_owned() });
        }
        Ok(())
    }

    /// Files seen.
    pub(super) fn files(&self) -> u64 {
        self.seen.len() as u64
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pages whose checksum looked wrong.
    pub(super) fn take_wrong_pages(&mut self) -> Vec<DamagedPage> {
        self.pages.as_mut().map(Pages::take_wrong).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_format::ManifestFile;

    fn path(text: &str) -> DataPath {
        DataPath::parse(text).unwrap()
    }

    fn listed(name: &str, content: &[u8]) -> ManifestFile {
        let checksum = Checksum::Crc32c(crc32c::crc32c(content));
        ManifestFile { path: path(name), size: content.len() as u64, last_modified: String::new(), checksum }
    }

    /// Follows files `a` and `b/c` and some WAL, then checks against a manifest.
    fn check(files: Vec<ManifestFile>) -> Result<(), BackupError> {
        let mut verifier = Verifier::new(ChecksumAlgorithm::Crc32c, None);
        for (name, content) in [("a", "one"), ("b/c", ""), ("pg_wal/000000010000000000000001", "wal")] {
            verifier.file(&path(name), content.len() as u64)?;
            verifier.data(content.as_bytes());
        }
        verifier.check(&Manifest { version: 2, system_id: None, files, wal_ranges: vec![] })?;
        assert_eq!((verifier.files(), verifier.bytes()), (3, 6));
        Ok(())
    }

    #[test]
    fn all_listed_and_nothing_else() {
        check(vec![listed("a", b"one"), listed("b/c", b"")]).unwrap();
        for wrong in [
            vec![listed("a", b"one")],
            vec![listed("a", b"One"), listed("b/c", b"")],
            vec![listed("a", b"on"), listed("b/c", b"")],
            vec![listed("a", b"one"), listed("b/c", b""), listed("d", b"")],
        ] {
            assert!(matches!(check(wrong), Err(BackupError::Differs { .. })));
        }
    }

    #[test]
    fn a_file_comes_once() {
        let mut verifier = Verifier::new(ChecksumAlgorithm::None, None);
        verifier.file(&path("a"), 0).unwrap();
        verifier.file(&path("b"), 0).unwrap();
        assert!(matches!(verifier.file(&path("a"), 0), Err(BackupError::Twice(_))));
    }
}
