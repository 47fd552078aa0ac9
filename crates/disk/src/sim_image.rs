//! What a simulated disk holds: files with their durable bytes and the changes only the page cache has, and names likewise;
//! and the images a power cut may leave of both.
//!
//! Model. A file's unsynced changes are kept in order. At a power cut every 512-byte sector has the content after some prefix
//! of the changes that touched it, each sector on its own: nothing, everything and any tearing or reordering between sectors
//! can come out. The length comes out after some prefix of its own changes. Name changes are kept or lost one by one, in any
//! combination; a rename is atomic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The unit that a disk writes wholly or not at all.
pub(crate) const SECTOR: usize = 512;

/// A small generator (SplitMix64): the same seed gives the same crash.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// How much of what was not synced a power cut keeps.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Nothing,
    Everything,
    Some,
}

impl Mood {
    fn of(chance: &mut Chance) -> Mood {
        [Mood::Nothing, Mood::Everything, Mood::Some, Mood::Some][chance.below(4)]
    }

    /// How many of `changes` changes are kept.
    fn keep(self, changes: usize, chance: &mut Chance) -> usize {
        match self {
            Mood::Nothing => 0,
            Mood::Everything => changes,
            Mood::Some => chance.below(changes + 1),
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

/// One file, independent of its names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    pub(crate) live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Inode {
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let change = Change::Write { offset, bytes: bytes.to_vec() };
        apply(&mut self.live, &change);
        self.pending.push(change);
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        self.live.resize(len, 0);
        self.pending.push(Change::SetLen(len));
    }

    pub(crate) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    /// A failed sync: the page cache forgets that the pages were ever dirty.
    pub(crate) fn forget_pending(&mut self) {
        self.pending.clear();
    }

    pub(crate) fn rot(&mut self, offset: usize) {
        for image in [&mut self.live, &mut self.durable] {
            if let Some(byte) = image.get_mut(offset) {
                *byte ^= 0x10;
            }
        }
    }

    /// Becomes what a power cut may leave.
    fn crash(&mut self, chance: &mut Chance) {
        let mood = Mood::of(chance);
        // Length: some prefix of the changes that set it.
        let mut lengths = vec![self.durable.len()];
        for change in &self.pending {
            let last = lengths[lengths.len() - 1];
            let next = match change {
                Change::Write { offset, bytes } => last.max(offset + bytes.len()),
                Change::SetLen(len) => *len,
            };
            if next != last {
                lengths.push(next);
            }
        }
        let len = lengths[mood.keep(lengths.len() - 1, chance)];
        // Sectors: each after some prefix of the changes that touched it.
        let mut touching: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, change) in self.pending.iter().enumerate() {
            if let Change::Write { offset, bytes } = change
                && !bytes.is_empty()
            {
                for sector in offset / SECTOR..=(offset + bytes.len() - 1) / SECTOR {
                    touching.entry(sector).or_default().push(index);
                }
            }
        }
        let mut image = self.durable.clone();
        for (sector, changes) in touching {
            let keep = mood.keep(changes.len(), chance);
            let begin = sector * SECTOR;
            let end = begin + SECTOR;
            for index in &changes[..keep] {
                if let Change::Write { offset, bytes } = &self.pending[*index] {
                    let (from, to) = (begin.max(*offset), end.min(offset + bytes.len()));
                    image.resize(image.len().max(to), 0);
                    image[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
                }
            }
        }
        image.resize(len, 0);
        self.pending.clear();
        self.live = image.clone();
        self.durable = image;
    }
}

fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => {
            image.resize(image.len().max(offset + bytes.len()), 0);
            image[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        Change::SetLen(len) => image.resize(*len, 0),
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    Directory,
    File(u64),
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

    /// Becomes what a power cut may leave.
    pub(crate) fn crash(&mut self, chance: &mut Chance) {
        let mood = Mood::of(chance);
        let mut names = std::mem::take(&mut self.durable_names);
        for change in std::mem::take(&mut self.pending_names) {
            if mood.keep(1, chance) == 1 {
                change.apply(&mut names);
            }
        }
        // A name in a directory that was lost is lost with it.
        let lost = |names: &BTreeMap<PathBuf, Node>, path: &Path| {
            path.ancestors().skip(1).any(|above| above.parent().is_some() && names.get(above) != Some(&Node::Directory))
        };
        let whole = names.clone();
        names.retain(|path, _| !lost(&whole, path));
        let kept: Vec<u64> = names
            .values()
            .filter_map(|node| if let Node::File(number) = node { Some(*number) } else { None })
            .collect();
        self.inodes.retain(|number, _| kept.contains(number));
        self.inodes.values_mut().for_each(|inode| inode.crash(chance));
        self.names = names.clone();
        self.durable_names = names;
    }
}
