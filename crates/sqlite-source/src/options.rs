//! How a database is looked after.

use sqlite_wal::PageSize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which database, and how it is looked after. [`Options::new`] gives the defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The database file; need not exist yet.
    pub path: PathBuf,
    /// The folder of the shadow WAL and the state; `None`: `.<file>-seawall` beside the database.
    pub meta_path: Option<PathBuf>,
    /// After a change, the next one is looked for this much later (changes in between are taken together).
    pub monitor_interval: Duration,
    /// So many pages in the WAL bring a checkpoint; at least 1.
    pub min_checkpoint_pages: u64,
    /// So many pages in the WAL, and the checkpoint waits, with the write lock held and within the busy time-out, for readers to leave.
    pub truncate_pages: u64,
    /// A WAL with anything new in it is checkpointed this often; zero: only by size.
    pub checkpoint_interval: Duration,
    /// How long a lock is waited for, and the longest a writer is made to wait.
    pub busy_timeout: Duration,
    /// How many replicas read the shadow WAL: lives are kept until all have said from where.
    pub replicas: usize,
}

impl Options {
    /// Litestream's defaults.
    pub fn new(path: impl Into<PathBuf>) -> Options {
        Options {
            path: path.into(),
            meta_path: None,
            monitor_interval: Duration::from_secs(1),
            min_checkpoint_pages: 1000,
            truncate_pages: 121_359,
            checkpoint_interval: Duration::from_secs(60),
            busy_timeout: Duration::from_secs(1),
            replicas: 1,
        }
    }

    /// The folder of the shadow WAL and the state.
    pub fn meta_dir(&self) -> PathBuf {
        match &self.meta_path {
            Some(path) => path.clone(),
            None => sibling(&self.path, ".", "-seawall"),
        }
    }

    /// The database's WAL.
    pub fn wal_path(&self) -> PathBuf {
        sibling(&self.path, "", "-wal")
    }

    /// Whether a WAL of this length is due for a checkpoint by its size.
    pub(crate) fn is_large(&self, page_size: PageSize, len: u64) -> bool {
        len >= page_size.frame_offset(self.min_checkpoint_pages.max(1))
    }

    /// Whether a WAL of this length is so long that readers are waited for.
    pub(crate) fn is_huge(&self, page_size: PageSize, len: u64) -> bool {
        len >= page_size.frame_offset(self.truncate_pages.max(1))
    }
}

/// The path with something before and behind its file name.
fn sibling(path: &Path, before: &str, behind: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(behind);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_the_database() {
        let options = Options::new("/srv/app.db");
        assert_eq!(options.meta_dir(), Path::new("/srv/.app.db-seawall"));
        assert_eq!(options.wal_path(), Path::new("/srv/app.db-wal"));
        assert_eq!(Options::new("app.db").meta_dir(), Path::new(".app.db-seawall"));
    }

    #[test]
    fn thresholds_are_of_the_logical_length_in_64_bits() {
        let options = Options::new("x");
        let size = PageSize::new(65536).unwrap();
        assert!(!options.is_large(size, size.frame_offset(999)));
        assert!(options.is_large(size, size.frame_offset(1000)));
        assert!(!options.is_huge(size, size.frame_offset(121_358)));
        assert!(options.is_huge(size, size.frame_offset(121_359)));
        assert!(size.frame_offset(121_359) > u64::from(u32::MAX));
    }
}
