//! Page checksums of relation files that go by.
//!
//! A page newer than the backup's beginning is not looked at: recovery replaces it, and it may have been caught half-written. An older
//! one can still be torn by a write under way, so what is found here is a suspicion; the server reads such a page again and has the last
//! word.

use backup_format::page::{self, PAGE_SIZE, PageState};
use backup_format::{DamagedPage, DataPath};
use lsn::Lsn;

/// Most pages that are named.
const MAX_NAMED: usize = 10_000;

/// Checks files one after the other.
#[derive(Debug)]
pub(super) struct Pages {
    begin: Lsn,
    file: Option<File>,
    wrong: Vec<DamagedPage>,
}

#[derive(Debug)]
struct File {
    path: DataPath,
    /// Block number, in its fork, of the file's first page.
    first: u32,
    /// Whole pages seen.
    pages: u32,
    /// The beginning of the next one.
    partial: Vec<u8>,
}

impl Pages {
    /// For a backup that begins at `begin`.
    pub(super) fn new(begin: Lsn) -> Pages {
        Pages { begin, file: None, wrong: Vec::new() }
    }

    pub(super) fn file(&mut self, path: &DataPath) {
        let file = |first| File { path: path.clone(), first, pages: 0, partial: Vec::new() };
        self.file = page::first_block(path).map(file);
    }

    pub(super) fn data(&mut self, mut bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if !file.partial.is_empty() {
            let missing = (PAGE_SIZE - file.partial.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(missing);
            file.partial.extend_from_slice(head);
            bytes = rest;
            if let Some(page) = file.partial.first_chunk() {
                check(page, self.begin, file.first, &file.path, &mut file.pages, &mut self.wrong);
                file.partial.clear();
            }
        }
        let mut pages = bytes.chunks_exact(PAGE_SIZE);
        for page in &mut pages {
            if let Some(page) = page.first_chunk() {
                check(page, self.begin, file.first, &file.path, &mut file.pages, &mut self.wrong);
            }
        }
        file.partial.extend_from_slice(pages.remainder());
    }

    /// What was found so far.
    pub(super) fn take_wrong(&mut self) -> Vec<DamagedPage> {
        std::mem::take(&mut self.wrong)
    }
}

fn check(
    page: &[u8; PAGE_SIZE],
    begin: Lsn,
    first: u32,
    path: &DataPath,
    pages: &mut u32,
    wrong: &mut Vec<DamagedPage>,
) {
    let block = *pages;
    *pages = pages.saturating_add(1);
    if page::lsn(page) >= begin || wrong.len() >= MAX_NAMED {
        return;
    }
    if let PageState::Wrong { .. } = page::verify(page, first.wrapping_add(block)) {
        wrong.push(DamagedPage { path: path.to_string(), block });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> DataPath {
        DataPath::parse(text).unwrap()
    }

    /// A page with an LSN, some content, and the checksum of block `block`.
    fn page(block: u32, lsn: u64) -> Vec<u8> {
        let mut page = [0u8; PAGE_SIZE];
        page[0..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[14] = 1;
        page[5000] = block as u8;
        let sum = page::checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page.to_vec()
    }

    #[test]
    fn a_wrong_page_is_named_however_its_file_is_cut() {
        let first = page::BLOCKS_PER_FILE;
        let mut bytes: Vec<u8> = (0..4).flat_map(|block| page(first + block, 0x100)).collect();
        bytes[2 * PAGE_SIZE + 100] ^= 1;
        // Newer than the backup: not looked at.
        bytes.extend(page(first + 77, 0x300));
        for run in [1, 100, 8191, 8192, 8193, 20_000, 100_000] {
            let mut pages = Pages::new(Lsn(0x200));
            pages.file(&path("base/5/1249.1"));
            bytes.chunks(run).for_each(|run| pages.data(run));
            assert_eq!(pages.take_wrong(), [DamagedPage { path: "base/5/1249.1".into(), block: 2 }], "runs of {run}");
        }
    }

    #[test]
    fn other_files_are_not_looked_at() {
        let mut pages = Pages::new(Lsn(0x200));
        pages.file(&path("pg_xact/0000"));
        pages.data(&[1; PAGE_SIZE * 2]);
        assert!(pages.take_wrong().is_empty());
    }

    #[test]
    fn the_list_is_bounded() {
        let mut pages = Pages::new(Lsn(u64::MAX));
        pages.file(&path("base/5/1249"));
        let bad = [1; PAGE_SIZE];
        (0..MAX_NAMED + 10).for_each(|_| pages.data(&bad));
        assert_eq!(pages.take_wrong().len(), MAX_NAMED);
    }
}
