//! The bytes of a simulated file: in pages that copies share until one of them is written, and none where all is zero.
//!
//! Segments are mostly zeros and crash tests copy disks many thousand times.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

const PAGE: usize = 4096;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// Bytes from 0 to a length. What lies behind the length in the last page is zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes {
    len: usize,
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
}

impl Bytes {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Cuts, or extends with zeros.
    pub(crate) fn resize(&mut self, len: usize) {
        self.pages.resize(len.div_ceil(PAGE), None);
        if len < self.len
            && let Some(Some(last)) = self.pages.last_mut()
            && !len.is_multiple_of(PAGE)
        {
            Arc::make_mut(last)[len % PAGE..].fill(0);
        }
        self.len = len;
    }

    /// Reads until the buffer is full or the bytes end; says how much it read.
    pub(crate) fn read(&self, offset: usize, buffer: &mut [u8]) -> usize {
        let count = self.len.saturating_sub(offset).min(buffer.len());
        let mut done = 0;
        while done < count {
            let (page, within) = ((offset + done) / PAGE, (offset + done) % PAGE);
            let part = (PAGE - within).min(count - done);
            let from = self.pages[page].as_ref().map_or(&ZEROS, |page| &**page);
            buffer[done..done + part].copy_from_slice(&from[within..within + part]);
            done += part;
        }
        count
    }

    /// Writes, growing where it must.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if offset + bytes.len() > self.len {
            self.resize(offset + bytes.len());
        }
        let mut done = 0;
        while done < bytes.len() {
            let (page, within) = ((offset + done) / PAGE, (offset + done) % PAGE);
            let part = (PAGE - within).min(bytes.len() - done);
            let from = &bytes[done..done + part];
            let page = &mut self.pages[page];
            if from == &ZEROS[..part] && (part == PAGE || page.is_none()) {
                *page = None;
            } else {
                let page = page.get_or_insert_with(|| Arc::new(ZEROS));
                Arc::make_mut(page)[within..within + part].copy_from_slice(from);
            }
            done += part;
        }
    }

    /// Flips a bit of one byte, if it is there.
    pub(crate) fn flip(&mut self, offset: usize) {
        let mut byte = [0];
        if self.read(offset, &mut byte) == 1 {
            self.write(offset, &[byte[0] ^ 0x10]);
        }
    }
}

impl Hash for Bytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len.hash(state);
        for (index, page) in self.pages.iter().enumerate() {
            if let Some(page) = page.as_ref().filter(|page| ***page != ZEROS) {
                index.hash(state);
                state.write(&**page);
            }
        }
    }
}
