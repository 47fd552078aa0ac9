//! Faults of the real disk, for scenarios: the file that `SEAWALL_DISK_FAULTS` names says which operations fail.
//!
//! One fault a line, `<operation> <part of the path> <error>`: every such operation on a path with that part fails with that error of the
//! operating system, and does nothing. The file is read at each operation, so that faults come and go while a program runs; no
//! variable or no file is no fault. An operation is one of `open create read write set-len sync sync-directory rename remove list
//! lock`, for a rename the new name counts; a part of `*` is every path; an error is `EIO`, `ENOSPC`, `EDQUOT` or `EROFS`. Lines that
//! begin with `#` are passed; a line that cannot be understood fails every operation, so that no test passes because of a slip.
//!
//! Only in builds with the feature `faults`.

use crate::Op;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The environment variable with the path of the fault file.
const FILE: &str = "SEAWALL_DISK_FAULTS";

/// The path an open file was opened by.
#[derive(Debug)]
pub(crate) struct Tag(PathBuf);

impl Tag {
    pub(crate) fn of(path: &Path) -> Tag {
        Tag(path.to_owned())
    }

    /// The fault there is now for this operation on this file, if any.
    pub(crate) fn check(&self, op: Op) -> io::Result<()> {
        check(op, &self.0)
    }
}

/// The fault there is now for this operation on this path, if any.
pub(crate) fn check(op: Op, path: &Path) -> io::Result<()> {
    let Some(file) = std::env::var_os(FILE) else { return Ok(()) };
    match fs::read_to_string(file) {
        Ok(faults) => judge(&faults, op, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn judge(faults: &str, op: Op, path: &Path) -> io::Result<()> {
    for line in faults.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let fault = (words.next().and_then(parse_op), words.next(), words.next().and_then(parse_error), words.next());
        let (Some(fails), Some(part), Some(error), None) = fault else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a fault: {line:?}")));
        };
        if fails == op && (part == "*" || path.to_string_lossy().contains(part)) {
            return Err(io::Error::from_raw_os_error(error));
        }
    }
    Ok(())
}

fn parse_op(word: &str) -> Option<Op> {
    Some(match word {
        "open" => Op::Open,
        "create" => Op::Create,
        "read" => Op::Read,
        "write" => Op::Write,
        "set-len" => Op::SetLen,
        "sync" => Op::Sync,
        "sync-directory" => Op::SyncDirectory,
        "rename" => Op::Rename,
        "remove" => Op::Remove,
        "list" => Op::List,
        "lock" => Op::Lock,
        _ => return None,
    })
}

fn parse_error(word: &str) -> Option<i32> {
    use rustix::io::Errno;
    let error = match word {
        "EIO" => Errno::IO,
        "ENOSPC" => Errno::NOSPC,
        "EDQUOT" => Errno::DQUOT,
        "EROFS" => Errno::ROFS,
        _ => return None,
    };
    Some(error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_fault_of_one_operation() {
        let faults = "# a comment\n\nsync 000000010 EIO\n write * ENOSPC \n";
        let wal = Path::new("/d/000000010000000000000001");
        let judged = |op, path: &Path| judge(faults, op, path).map_err(|error| error.kind());
        assert_eq!(judge(faults, Op::Sync, wal).unwrap_err().raw_os_error(), Some(5));
        assert_eq!(judged(Op::Sync, Path::new("/d/control")), Ok(()));
        assert_eq!(judged(Op::Write, Path::new("/d/control")), Err(io::ErrorKind::StorageFull));
        assert_eq!(judged(Op::Read, wal), Ok(()));
        assert!(judge("", Op::Sync, wal).is_ok());
        for slip in ["sink x EIO", "sync x", "sync x EWHAT", "sync x EIO 3"] {
            assert!(judge(slip, Op::Read, wal).is_err(), "{slip}");
        }
    }
}
