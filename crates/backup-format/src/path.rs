//! [`DataPath`]: the name of a file relative to a data directory, checked so that it cannot lead out of it.

use std::fmt;
use std::path::PathBuf;

/// Longest path. PostgreSQL's own limit is 1023 bytes with the data directory in front.
const MAX_PATH: usize = 1024;

/// A file's path relative to the data directory: `base/5/1249`, `pg_tblspc/16384/PG_15_202209061/5/16385`.
///
/// Never empty, absolute or with `.`, `..` or empty components. Bytes, not text: PostgreSQL sends stray files whatever their names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataPath(Vec<u8>);

/// Not a path inside a data directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a path inside a data directory: {reason}")]
pub struct PathError {
    path: String,
    reason: &'static str,
}

impl DataPath {
    /// Checks a path. One trailing slash, as directories have it in a tar stream, is taken off.
    pub fn parse(path: impl Into<Vec<u8>>) -> Result<DataPath, PathError> {
        let mut path = path.into();
        if path.len() > 1 && path.last() == Some(&b'/') {
            path.pop();
        }
        let reason = match path.as_slice() {
            [] => "it is empty",
            long if long.len() > MAX_PATH => "it is longer than 1024 bytes",
            path if path.contains(&0) => "it holds a zero byte",
            path if path.split(|&byte| byte == b'/').any(|part| matches!(part, b"" | b"." | b"..")) => {
                "it is absolute, or has an empty, \".\" or \"..\" component"
            }
            _ => return Ok(DataPath(path)),
        };
        Err(PathError { path: String::from_utf8_lossy(&path).chars().take(80).collect(), reason })
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the system takes it, still relative. A name that is not text keeps its bytes.
    #[cfg(unix)]
    pub fn to_path(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(std::ffi::OsStr::from_bytes(&self.0))
    }

    /// The path as the system takes it, still relative.
    #[cfg(not(unix))]
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(self.to_string())
    }

    /// The path below a directory of the data directory.
    pub fn below(directory: &str, path: &DataPath) -> Result<DataPath, PathError> {
        let mut joined = directory.as_bytes().to_vec();
        joined.push(b'/');
        joined.extend_from_slice(&path.0);
        DataPath::parse(joined)
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Component, Path};

    #[test]
    fn only_what_stays_inside() {
        for path in ["base/5/1249", "backup_label", "pg_tblspc/16384/PG_15", "a..b", ".hidden"] {
            assert_eq!(DataPath::parse(path).unwrap().to_path(), Path::new(path));
        }
        assert_eq!(DataPath::parse("base/").unwrap().as_bytes(), b"base");
        let long = "x".repeat(1025);
        for path in
            ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/./b", "a//b", ".", "a/..", "./a", "a\0b", "a//", &long]
        {
            assert!(DataPath::parse(path).is_err(), "{path:?}");
        }
        assert_eq!(DataPath::parse([0xff, b'a']).unwrap().as_bytes(), [0xff, b'a'], "not text, and kept");
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_has_normal_components_only(path in "[a./\\\\-]{0,12}") {
            if let Ok(path) = DataPath::parse(path) {
                proptest::prop_assert!(path.to_path().components().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
