//! Finding databases in a directory.
//!
//! What counts is the name *and* the first bytes: a file that is no SQLite database (yet) is passed over.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deeper than anybody keeps databases, and an end for links that lead in circles.
const DEPTH_MAX: usize = 16;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A pattern of file names: `*` is any run, `?` any one character.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Where the last star stands, and how much of the name it has taken.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The databases that are there now. A directory that is not there has none.
///
/// `known` are those that are replicated already. They are not opened: closing a file drops all of this process's locks on it, SQLite's
/// among them. So another name of the same file is no other database either.
pub(super) fn find(
    dir: &Path,
    pattern: &str,
    recursive: bool,
    known: &BTreeSet<PathBuf>,
) -> io::Result<BTreeSet<PathBuf>> {
    let inodes =
        known.iter().filter_map(|path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))).collect();
    let mut search = Search { pattern, recursive, known, inodes, found: BTreeSet::new() };
    search.look(dir, DEPTH_MAX)?;
    Ok(search.found)
}

struct Search<'a> {
    pattern: &'a str,
    recursive: bool,
    known: &'a BTreeSet<PathBuf>,
    inodes: HashSet<(u64, u64)>,
    found: BTreeSet<PathBuf>,
}

impl Search<'_> {
    fn look(&mut self, dir: &Path, depth: usize) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            // What cannot be asked is gone since.
            let Ok(found) = fs::metadata(&path) else { continue };
            let kind = found.file_type();
            // Our own folders begin with a dot, as do those of others that hold no databases of the user.
            if kind.is_dir() && self.recursive && depth > 0 && !name.starts_with('.') {
                self.look(&path, depth - 1)?;
            } else if kind.is_file() && matches(self.pattern, name) && !is_part(name) {
                let known = self.known.contains(&path);
                if known || (self.inodes.insert((found.dev(), found.ino())) && is_database(&path)) {
                    self.found.insert(path);
                }
            }
        }
        Ok(())
    }
}

/// SQLite's own files beside a database.
fn is_part(name: &str) -> bool {
    ["-wal", "-shm", "-journal"].iter().any(|end| name.ends_with(end))
}

/// Whether the file begins as a database does. It is opened before anything of ours is connected to it: closing it later would drop
/// SQLite's locks.
fn is_database(path: &Path) -> bool {
    let mut head = [0; 16];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*.db", "a.db", true),
            ("*.db", ".db", true),
            ("*.db", "a.dbx", false),
            ("a?c*", "abcde", true),
            ("a?c*", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ba", false),
            ("", "", true),
            ("*", "anything", true),
            ("ü?", "üö", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn databases_are_found_by_name_and_content() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            path
        };
        let database = [MAGIC.as_slice(), &[0; 100]].concat();
        let (one, two) = (put("a.db", &database), put("sub/b.db", &database));
        for (name, bytes) in [
            ("empty.db", &[][..]),
            ("text.db", b"hello, this is no database"),
            ("x.txt", &database),
            (".x/c.db", &database),
        ] {
            put(name, bytes);
        }
        let none = BTreeSet::new();
        assert_eq!(find(dir.path(), "*.db", false, &none).unwrap(), BTreeSet::from([one.clone()]));
        assert_eq!(find(dir.path(), "*.db", true, &none).unwrap(), BTreeSet::from([one.clone(), two.clone()]));
        assert!(find(&dir.path().join("missing"), "*", true, &none).unwrap().is_empty());
        // Another name of a database that is replicated is no other database.
        fs::hard_link(&one, dir.path().join("0.db")).unwrap();
        let known = BTreeSet::from([one.clone()]);
        assert_eq!(find(dir.path(), "*.db", true, &known).unwrap(), BTreeSet::from([one, two]));
    }
}
