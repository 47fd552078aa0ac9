//! [`Packer`]: files in order become chunks of about one size.

use super::{Kind, Part, encode_head};
use crate::path::DataPath;
use bytes::Bytes;
use std::collections::VecDeque;

/// What an entry costs a chunk beside its bytes, so that very many empty files are cut into several chunks too.
const PART_COST: u64 = 256;

/// A finished chunk.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Its index.
    pub parts: Vec<Part>,
    /// Its bytes in order: head and index, then slices of what was packed.
    pub bytes: Vec<Bytes>,
    /// How many bytes these are.
    pub length: u64,
    /// CRC-32C over all of them.
    pub crc32c: u32,
}

/// Cuts a stream of directories and files into chunks.
///
/// At most one chunk's bytes are held besides the finished ones that were not polled.
#[derive(Debug)]
pub struct Packer {
    target: u64,
    parts: Vec<Part>,
    data: Vec<Bytes>,
    cost: u64,
    /// The file under way: bytes still to come.
    open: Option<u64>,
    finished: VecDeque<Packed>,
}

impl Packer {
    /// Makes chunks of about `target` bytes: they are cut there, and exceed it by their index alone.
    pub fn new(target: u64) -> Packer {
        Packer {
            target: target.max(1),
            parts: Vec::new(),
            data: Vec::new(),
            cost: 0,
            open: None,
            finished: VecDeque::new(),
        }
    }

    /// Bytes that the file under way still lacks; 0 between files.
    pub fn missing(&self) -> u64 {
        self.open.unwrap_or(0)
    }

    /// Adds a directory.
    ///
    /// # Panics
    /// If a file is under way.
    pub fn directory(&mut self, path: DataPath, mode: u32) {
        assert!(self.missing() == 0, "a file is under way");
        self.part(Part { kind: Kind::Directory, mode: mode & 0o7777, path, size: 0, offset: 0, length: 0, crc32c: 0 });
    }

    /// Begins a file of `size` bytes, which are to follow by [`Packer::data`].
    ///
    /// # Panics
    /// If a file is under way.
    pub fn file(&mut self, path: DataPath, mode: u32, size: u64) {
        assert!(self.missing() == 0, "a file is under way");
        self.part(Part { kind: Kind::File, mode: mode & 0o7777, path, size, offset: 0, length: 0, crc32c: 0 });
        self.open = (size > 0).then_some(size);
    }

    /// Adds bytes of the file under way.
    ///
    /// # Panics
    /// If these are more than it lacks.
    pub fn data(&mut self, mut bytes: Bytes) {
        assert!(bytes.len() as u64 <= self.missing(), "more bytes than the file has");
        while !bytes.is_empty() {
            if self.cost >= self.target {
                self.cut();
            }
            let room = usize::try_from(self.target - self.cost).unwrap_or(usize::MAX);
            let run = bytes.split_to(room.min(bytes.len()));
            let length = run.len() as u64;
            let Some(part) = self.parts.last_mut() else { return };
            part.crc32c = crc32c::crc32c_append(part.crc32c, &run);
            part.length += length;
            self.cost += length;
            self.data.push(run);
            self.open = self.open.and_then(|missing| missing.checked_sub(length)).filter(|missing| *missing > 0);
        }
    }

    /// A chunk that is full; `None` while there is none.
    pub fn poll(&mut self) -> Option<Packed> {
        self.finished.pop_front()
    }

    /// The chunks that are left, after the last file.
    ///
    /// # Panics
    /// If a file is under way.
    pub fn finish(mut self) -> Vec<Packed> {
        assert!(self.missing() == 0, "a file is under way");
        self.seal();
        self.finished.into()
    }

    fn part(&mut self, part: Part) {
        if self.cost >= self.target {
            self.seal();
        }
        self.cost += PART_COST + part.path.as_bytes().len() as u64;
        self.parts.push(part);
    }

    /// Ends the chunk within a file and begins the next with the rest of it.
    fn cut(&mut self) {
        let Some(last) = self.parts.last().cloned() else { return };
        if last.length == 0 {
            // Nothing of the file is in this chunk yet; an empty run of it would mean nothing.
            self.parts.pop();
        }
        self.seal();
        self.parts.push(Part { offset: last.offset + last.length, length: 0, crc32c: 0, ..last });
        // The cost of this entry is not counted: a target below it would never let a byte in.
    }

    fn seal(&mut self) {
        self.cost = 0;
        if self.parts.is_empty() {
            return;
        }
        let parts = std::mem::take(&mut self.parts);
        let head = encode_head(&parts);
        let mut crc32c = crc32c::crc32c(&head);
        let mut length = head.len() as u64;
        for part in &parts {
            crc32c = super::combine_crc32c(crc32c, part.crc32c, part.length);
            length += part.length;
        }
        let mut bytes = vec![head];
        bytes.append(&mut self.data);
        self.finished.push_back(Packed { parts, bytes, length, crc32c });
    }
}
