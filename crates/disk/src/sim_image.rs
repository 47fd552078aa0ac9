//! What a simulated disk holds: files with their durable bytes and the changes only the page cache has, and names likewise;
//! and the images a power cut may leave of both.
//!
//! Model. A file's unsynced changes are kept in order. At a power cut every 512-byte sector has the content after some prefix
//! of the changes that touched it, each sector on its own: nothing, everything and any tearing or reordering between sectors
//! can come out. The length comes out after some prefix of its own changes, or half-way through one that extends the file. Name
//! changes are kept or lost one by one, in any combination; a rename is atomic.
//!
//! What is open after a power cut is a list of [`Choice`]s; an image is one pick for each.

use crate::sim_bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The unit that a disk writes wholly or not at all.
pub(crate) const SECTOR: usize = 512;

/// One thing that a power cut leaves open, with its outcomes: the first keeps nothing of what was not synced, the last everything.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// The `n`th name change that is not durable: lost or kept.
    Name(usize),
    /// A sector's content.
    Sector { inode: u64, sector: usize, contents: Vec<[u8; SECTOR]> },
    /// A file's length.
    Length { inode: u64, lengths: Vec<usize> },
}

impl Choice {
    /// How many outcomes there are, at least 2.
    pub(crate) fn outcomes(&self) -> usize {
        match self {
            Choice::Name(_) => 2,
            Choice::Sector { contents, .. } => contents.len(),
            Choice::Length { lengths, .. } => lengths.len(),
        }
    }

    /// The file it is about; `None` for a name.
    pub(crate) fn inode(&self) -> Option<u64> {
        match self {
            Choice::Name(_) => None,
            Choice::Sector { inode, .. } | Choice::Length { inode, .. } => Some(*inode),
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Arc<[u8]> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, image: &mut Bytes) {
        match self {
            Change::Write { offset, bytes } => image.write(*offset, bytes),
            Change::SetLen(len) => image.resize(*len),
        }
    }
}

/// One file, independent of its names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    pub(crate) live: Bytes,
    durable: Bytes,
    pending: Vec<Change>,
}

impl Inode {
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let change = Change::Write { offset, bytes: bytes.into() };
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        self.live.resize(len);
        self.pending.push(Change::SetLen(len));
    }

    pub(crate) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A failed sync: the page cache forgets that the pages were ever dirty.
    pub(crate) fn forget_pending(&mut self) {
        self.pending.clear();
    }

    pub(crate) fn rot(&mut self, offset: usize) {
        self.live.flip(offset);
        self.durable.flip(offset);
    }

    /// The lengths that a crash may leave: after some prefix of the changes, or half-way through one that makes the file longer.
    fn lengths(&self) -> Vec<usize> {
        let mut lengths = vec![self.durable.len()];
        for change in &self.pending {
            let last = lengths[lengths.len() - 1];
            let next = match change {
                Change::Write { offset, bytes } => last.max(offset + bytes.len()),
                Change::SetLen(len) => *len,
            };
            let half = last.midpoint(next) / SECTOR * SECTOR;
            if last < half && half < next {
                lengths.push(half);
            }
            if next != last {
                lengths.push(next);
            }
        }
        lengths
    }

    /// The contents that a crash may leave of each sector that would not come out the same in any case: after some prefix of
    /// the changes that touched it.
    fn sectors(&self) -> BTreeMap<usize, Vec<[u8; SECTOR]>> {
        let mut sectors: BTreeMap<usize, Vec<[u8; SECTOR]>> = BTreeMap::new();
        for change in &self.pending {
            let Change::Write { offset, bytes } = change else { continue };
            let end = offset + bytes.len();
            for sector in offset / SECTOR..end.div_ceil(SECTOR) {
                let begin = sector * SECTOR;
                let (from, to) = (begin.max(*offset), end.min(begin + SECTOR));
                let mut content = [0; SECTOR];
                match sectors.get(&sector).and_then(|contents| contents.last()) {
                    Some(last) => content = *last,
                    None => _ = self.durable.read(begin, &mut content),
                }
                let before = content;
                content[from - begin..to - begin].copy_from_slice(&bytes[from - offset..to - offset]);
                if content != before {
                    sectors.entry(sector).or_insert_with(|| vec![before]).push(content);
                }
            }
        }
        sectors
    }

    /// Becomes the durable image, to which the choices are applied then.
    fn lose_pending(&mut self) {
        self.pending.clear();
        self.live = self.durable.clone();
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    Directory,
    File(u64),
}

impl Node {
    fn file(self) -> Option<u64> {
        match self {
            Node::File(number) => Some(number),
            Node::Directory => None,
        }
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(PathBuf, Node),
    Remove(PathBuf, Node),
    Rename { from: PathBuf, to: PathBuf, node: Node },
}

impl NameChange {
    fn parent(&self) -> Option<&Path> {
        match self {
            NameChange::Add(path, _) | NameChange::Remove(path, _) | NameChange::Rename { to: path, .. } => {
                path.parent()
            }
        }
    }

    /// What has a name because of this change.
    fn gives(&self) -> Option<Node> {
        match self {
            NameChange::Add(_, node) | NameChange::Rename { node, .. } => Some(*node),
            NameChange::Remove(..) => None,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameChange::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameChange::Remove(path, node) => {
                if names.get(path) == Some(node) {
                    names.remove(path);
                }
            }
            NameChange::Rename { from, to, node } => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// The names and files of one simulated disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Images {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending_names: Vec<NameChange>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
}

impl Images {
    pub(crate) fn node(&self, path: &Path) -> Option<Node> {
        // The root of the tree is always there.
        if path.parent().is_none() { Some(Node::Directory) } else { self.names.get(path).copied() }
    }

    pub(crate) fn inode(&self, number: u64) -> Option<&Inode> {
        self.inodes.get(&number)
    }

    pub(crate) fn inode_mut(&mut self, number: u64) -> Option<&mut Inode> {
        self.inodes.get_mut(&number)
    }

    pub(crate) fn children<'a>(&'a self, directory: &'a Path) -> impl Iterator<Item = (&'a Path, Node)> {
        self.names
            .iter()
            .filter(move |(path, _)| path.parent() == Some(directory))
            .map(|(p, node)| (p.as_path(), *node))
    }

    pub(crate) fn below(&self, directory: &Path) -> Vec<(PathBuf, Node)> {
        self.names.iter().filter(|(path, _)| path.starts_with(directory)).map(|(p, node)| (p.clone(), *node)).collect()
    }

    /// Bytes of all files that have a name.
    pub(crate) fn used(&self) -> u64 {
        let live = |node: &Node| match node {
            Node::File(number) => self.inodes.get(number).map_or(0, |inode| inode.live.len() as u64),
            Node::Directory => 0,
        };
        self.names.values().map(live).sum()
    }

    pub(crate) fn create_file(&mut self, path: &Path) -> u64 {
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, Inode::default());
        self.change(NameChange::Add(path.to_owned(), Node::File(self.next_inode)));
        self.next_inode
    }

    pub(crate) fn create_directory(&mut self, path: &Path) {
        self.change(NameChange::Add(path.to_owned(), Node::Directory));
    }

    pub(crate) fn remove(&mut self, path: &Path, node: Node) {
        self.change(NameChange::Remove(path.to_owned(), node));
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path, node: Node) {
        self.change(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), node });
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    pub(crate) fn sync_directory(&mut self, directory: &Path) {
        let (now, later) = std::mem::take(&mut self.pending_names)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.parent() == Some(directory));
        now.iter().for_each(|change| change.apply(&mut self.durable_names));
        self.pending_names = later;
    }

    /// All that a power cut leaves open: names first, in the order of their changes, then file by file the sectors in order, and
    /// the length.
    pub(crate) fn choices(&self) -> Vec<Choice> {
        let mut choices: Vec<Choice> = (0..self.pending_names.len()).map(Choice::Name).collect();
        let pending = self.pending_names.iter().filter_map(NameChange::gives);
        let reachable: BTreeSet<u64> =
            self.durable_names.values().copied().chain(pending).filter_map(Node::file).collect();
        for (number, inode) in self.inodes.iter().filter(|(number, _)| reachable.contains(number)) {
            for (sector, contents) in inode.sectors() {
                choices.push(Choice::Sector { inode: *number, sector, contents });
            }
            let lengths = inode.lengths();
            if lengths.len() > 1 {
                choices.push(Choice::Length { inode: *number, lengths });
            }
        }
        choices
    }

    /// Becomes what a power cut may leave: of the `index`th choice the `picks[index]`th outcome, 0 being that nothing is kept.
    pub(crate) fn crash(&mut self, choices: &[Choice], picks: &[usize]) {
        let mut names = std::mem::take(&mut self.durable_names);
        let pending_names = std::mem::take(&mut self.pending_names);
        self.inodes.values_mut().for_each(Inode::lose_pending);
        let mut lens: BTreeMap<u64, usize> = BTreeMap::new();
        for (choice, pick) in choices.iter().zip(picks) {
            match choice {
                Choice::Name(index) => {
                    if *pick > 0 {
                        pending_names[*index].apply(&mut names);
                    }
                }
                Choice::Sector { inode, sector, contents } => {
                    if let Some(file) = self.inodes.get_mut(inode).filter(|_| *pick > 0) {
                        lens.entry(*inode).or_insert(file.durable.len());
                        file.live.write(sector * SECTOR, &contents[*pick]);
                    }
                }
                Choice::Length { inode, lengths } => _ = lens.insert(*inode, lengths[*pick]),
            }
        }
        for (number, len) in lens {
            if let Some(file) = self.inodes.get_mut(&number) {
                file.live.resize(len);
                file.durable = file.live.clone();
            }
        }
        // A name in a directory that was lost is lost with it.
        let lost = |names: &BTreeMap<PathBuf, Node>, path: &Path| {
            path.ancestors().skip(1).any(|above| above.parent().is_some() && names.get(above) != Some(&Node::Directory))
        };
        let whole = names.clone();
        names.retain(|path, _| !lost(&whole, path));
        let kept: BTreeSet<u64> = names.values().copied().filter_map(Node::file).collect();
        self.inodes.retain(|number, _| kept.contains(number));
        self.names = names.clone();
        self.durable_names = names;
    }
}

/// Names and bytes as they are read now.
impl Hash for Images {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (path, node) in &self.names {
            path.hash(state);
            node.file().and_then(|number| self.inodes.get(&number)).map(|inode| &inode.live).hash(state);
        }
    }
}
