//! The life of the directory a restore writes: claimed, filled, and only at its very end made something that starts.
//!
//! One file does three things. `seawall_restore.unfinished` is created first and locked: while it stands the directory is ours and
//! half-made. At the end it receives the content of `pg_control`, is synced, and is *renamed* to `global/pg_control`: without that file
//! no server starts, so that there is no moment at which a half-made directory would start, and none at which a complete one still
//! counts as half-made. A restore that was interrupted is begun anew in the same directory.
//!
//! Invariants: nothing is removed from a directory that is not ours, unless the caller was told so; a directory with a `pg_control` is
//! never ours; a directory with a `postmaster.pid` is never touched.

use disk::{Disk, LockGuard, RealDisk};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The file that marks a directory as half-made.
pub const MARKER: &str = "seawall_restore.unfinished";
const CONTROL: &str = "global/pg_control";
const WORD: &[u8] = b"seawall restore has not finished here. Run it again; it begins anew.\n";

/// Files that are synced at a time.
const SYNCS_AT_ONCE: usize = 8;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Something is in it that is not ours.
    #[error("{} is not empty; nothing was touched: name an empty directory, or say --overwrite to lose what is there", .0.display())]
    NotEmpty(PathBuf),
    /// A tablespace's directory holds something that is not ours.
    #[error("{} (tablespace {oid}) is not empty; nothing was touched: empty it, or put the tablespace elsewhere with --tablespace-mapping {oid}=DIR", path.display())]
    TablespaceNotEmpty {
        /// The tablespace.
        oid: u32,
        /// Its directory.
        path: PathBuf,
    },
    /// A server may be running in it.
    #[error("{} holds a postmaster.pid: a server may be running there; nothing was touched: stop it first", .0.display())]
    InUse(PathBuf),
    /// Another restore is at work there.
    #[error("another restore is at work in {}; nothing was touched", .0.display())]
    Busy(PathBuf),
    /// The operating system refused something.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A thread ended.
    #[error("making the restored files durable was cut short")]
    Stopped,
}

impl DirectoryError {
    /// Whether it was refused to protect what is there, rather than failed.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, DirectoryError::Io { .. } | DirectoryError::Stopped)
    }
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DirectoryError + 'a {
    move |source| DirectoryError::Io { what, path: path.to_path_buf(), source }
}

/// A directory that is ours until [`Claim::finish`].
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    tablespaces: Vec<PathBuf>,
    lock: Arc<LockGuard>,
}

impl Claim {
    /// Takes a directory: one that does not exist (it is made), is empty, or was left half-made by an earlier restore (what is in it is
    /// removed). Anything else only if `overwrite`. It gets mode 0700, which PostgreSQL demands.
    pub fn new(path: &Path, overwrite: bool) -> Result<Claim, DirectoryError> {
        let path = std::path::absolute(path).map_err(io_error("name", path))?;
        RealDisk.create_dir_all(&path).map_err(io_error("make the directory", &path))?;
        judge(&path, overwrite)?;
        let marker = path.join(MARKER);
        let lock = match RealDisk.lock_exclusive(&marker) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(DirectoryError::Busy(path)),
            Err(error) => return Err(io_error("lock", &marker)(error)),
        };
        // Whoever held the lock until now may have finished, and its directory is not ours.
        judge(&path, overwrite)?;
        fs::write(&marker, WORD).map_err(io_error("write", &marker))?;
        RealDisk.sync_directory(&path).map_err(io_error("sync", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(io_error("set the mode of", &path))?;
        // First what would let an old, half-removed cluster start.
        remove_if_there(&path.join(CONTROL))?;
        if path.join("global").is_dir() {
            RealDisk.sync_directory(&path.join("global")).map_err(io_error("sync", &path))?;
        }
        empty(&path)?;
        Ok(Claim { path, tablespaces: Vec::new(), lock: Arc::new(lock) })
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What keeps others out. A thread that writes into the directory holds on to it, so that nobody begins anew beside one that has not
    /// noticed yet that the restore was given up.
    pub fn lock(&self) -> Arc<LockGuard> {
        Arc::clone(&self.lock)
    }

    /// Takes a tablespace's directory on the same terms; never one with something else in it.
    pub fn tablespace(&mut self, oid: u32, path: &Path) -> Result<(), DirectoryError> {
        let path = std::path::absolute(path).map_err(io_error("name", path))?;
        RealDisk.create_dir_all(&path).map_err(io_error("make the directory", &path))?;
        let entries = RealDisk.list(&path).map_err(io_error("list", &path))?;
        let marker = path.join(MARKER);
        let ours = entries.is_empty() || entries.iter().any(|entry| entry.name == MARKER);
        if !ours || self.tablespaces.contains(&path) {
            return Err(DirectoryError::TablespaceNotEmpty { oid, path });
        }
        fs::write(&marker, WORD).map_err(io_error("write", &marker))?;
        RealDisk.sync_directory(&path).map_err(io_error("sync", &path))?;
        empty(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(io_error("set the mode of", &path))?;
        self.tablespaces.push(path);
        Ok(())
    }

    /// The directories of the tablespaces, absolute.
    pub fn tablespaces(&self) -> &[PathBuf] {
        &self.tablespaces
    }

    /// Makes everything written durable, then makes the directory one that starts. `control` is the content of `global/pg_control`.
    /// Blocks. On an error the directory stays half-made.
    pub fn finish(self, control: &[u8]) -> Result<PathBuf, DirectoryError> {
        for tree in self.tablespaces.iter().chain([&self.path]) {
            sync_tree(tree)?;
        }
        for tablespace in &self.tablespaces {
            remove_if_there(&tablespace.join(MARKER))?;
            RealDisk.sync_directory(tablespace).map_err(io_error("sync", tablespace))?;
        }
        let (marker, place) = (self.path.join(MARKER), self.path.join(CONTROL));
        fs::write(&marker, control).map_err(io_error("write", &marker))?;
        fs::set_permissions(&marker, Permissions::from_mode(0o600)).map_err(io_error("set the mode of", &marker))?;
        sync_file(&marker)?;
        RealDisk.rename(&marker, &place).map_err(io_error("rename", &marker))?;
        for directory in [self.path.join("global"), self.path.clone()] {
            RealDisk.sync_directory(&directory).map_err(io_error("sync", &directory))?;
        }
        Ok(self.path)
    }
}

/// Whether the directory may be filled.
fn judge(path: &Path, overwrite: bool) -> Result<(), DirectoryError> {
    let there = |name: &str| fs::symlink_metadata(path.join(name)).is_ok();
    let entries = RealDisk.list(path).map_err(io_error("list", path))?;
    if there("postmaster.pid") {
        return Err(DirectoryError::InUse(path.to_path_buf()));
    }
    let half_made = there(MARKER) && !there(CONTROL);
    match entries.is_empty() || half_made || overwrite {
        true => Ok(()),
        false => Err(DirectoryError::NotEmpty(path.to_path_buf())),
    }
}

/// Removes everything but the marker. Links are removed, not followed: what lies in a tablespace is not ours yet.
fn empty(path: &Path) -> Result<(), DirectoryError> {
    for entry in RealDisk.list(path).map_err(io_error("list", path))? {
        if entry.name == MARKER {
            continue;
        }
        let child = path.join(&entry.name);
        let metadata = fs::symlink_metadata(&child).map_err(io_error("look at", &child))?;
        let removed = if metadata.is_dir() { RealDisk.remove_dir_all(&child) } else { RealDisk.remove_file(&child) };
        removed.map_err(io_error("remove", &child))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), DirectoryError> {
    match RealDisk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync_file(path: &Path) -> Result<(), DirectoryError> {
    RealDisk.sync_file(path).map_err(io_error("sync", path))
}

/// Syncs every file and directory below `path`, links not followed. Several at a time: each waits for the disk, and a file system makes one
/// journal entry of syncs that come together.
fn sync_tree(path: &Path) -> Result<(), DirectoryError> {
    let (mut files, mut directories) = (Vec::new(), vec![path.to_path_buf()]);
    let mut looked = 0;
    while let Some(directory) = directories.get(looked).cloned() {
        looked += 1;
        for entry in RealDisk.list(&directory).map_err(io_error("list", &directory))? {
            let child = directory.join(&entry.name);
            let kind = fs::symlink_metadata(&child).map_err(io_error("look at", &child))?.file_type();
            if kind.is_dir() {
                directories.push(child);
            } else if kind.is_file() {
                files.push(child);
            }
        }
    }
    let next = AtomicUsize::new(0);
    let worker = || -> Result<(), DirectoryError> {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync_file(file)?;
        }
        Ok(())
    };
    let synced: Result<(), DirectoryError> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SYNCS_AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Err(DirectoryError::Stopped)))
    });
    synced?;
    // What is in them comes before their names.
    directories.iter().rev().try_for_each(|path| RealDisk.sync_directory(path).map_err(io_error("sync", path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(path: &Path) {
        for dir in ["global", "base/1"] {
            fs::create_dir_all(path.join(dir)).unwrap();
        }
        fs::write(path.join("base/1/1259"), "page").unwrap();
    }

    fn names(path: &Path) -> Vec<String> {
        RealDisk.list(path).unwrap().into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
    }

    #[test]
    fn nothing_half_made_has_a_control_file_and_a_second_run_begins_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        let claim = Claim::new(&dir, false).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        fill(&dir);
        assert!(!dir.join(CONTROL).exists());
        // While one is at work there is no second.
        assert!(matches!(Claim::new(&dir, false), Err(DirectoryError::Busy(_))));
        assert!(matches!(Claim::new(&dir, true), Err(DirectoryError::Busy(_))));
        assert!(dir.join("base/1/1259").exists());
        drop(claim);
        let claim = Claim::new(&dir, false).unwrap();
        assert_eq!(names(&dir), [MARKER]);
        fill(&dir);
        claim.finish(b"control").unwrap();
        assert_eq!(names(&dir), ["base", "global"]);
        assert_eq!(fs::read(dir.join(CONTROL)).unwrap(), b"control");
        // From now on it is a database, not ours.
        assert!(matches!(Claim::new(&dir, false), Err(DirectoryError::NotEmpty(_))));
        assert_eq!(fs::read(dir.join(CONTROL)).unwrap(), b"control");
    }

    #[test]
    fn somebody_elses_directory_is_left_alone_unless_told() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        fill(dir);
        let error = Claim::new(dir, false).unwrap_err();
        assert!(matches!(error, DirectoryError::NotEmpty(_)) && error.is_refusal());
        assert_eq!(names(dir), ["base", "global"]);
        fs::write(dir.join(CONTROL), "theirs").unwrap();
        // A marker beside a control file: an overwriting restore that had only begun. Still not ours.
        fs::write(dir.join(MARKER), WORD).unwrap();
        assert!(matches!(Claim::new(dir, false), Err(DirectoryError::NotEmpty(_))));
        fs::write(dir.join("postmaster.pid"), "1\n").unwrap();
        assert!(matches!(Claim::new(dir, true), Err(DirectoryError::InUse(_))));
        assert!(dir.join(CONTROL).exists());
        fs::remove_file(dir.join("postmaster.pid")).unwrap();
        let claim = Claim::new(dir, true).unwrap();
        assert_eq!(names(dir), [MARKER]);
        drop(claim);
    }

    #[test]
    fn tablespaces_are_taken_on_the_same_terms_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (dir, space, other) = (root.path().join("data"), root.path().join("space"), root.path().join("other"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("theirs"), "").unwrap();
        let mut claim = Claim::new(&dir, false).unwrap();
        claim.tablespace(16400, &space).unwrap();
        assert!(matches!(claim.tablespace(16401, &space), Err(DirectoryError::TablespaceNotEmpty { oid: 16401, .. })));
        assert!(matches!(claim.tablespace(16401, &other), Err(DirectoryError::TablespaceNotEmpty { .. })));
        fs::write(space.join("file"), "").unwrap();
        fs::create_dir(dir.join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(&other, dir.join("pg_tblspc/16401")).unwrap();
        drop(claim);
        let mut claim = Claim::new(&dir, false).unwrap();
        assert!(other.join("theirs").exists(), "a link was followed");
        claim.tablespace(16400, &space).unwrap();
        assert_eq!(names(&space), [MARKER]);
        fill(&dir);
        claim.finish(b"control").unwrap();
        assert_eq!(names(&space), [""; 0]);
    }
}
