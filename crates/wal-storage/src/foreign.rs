//! Making somebody else's WAL files durable: those of a server that is down.

use crate::Error;
use disk::{Disk, OpenMode};
use std::path::Path;

/// Syncs every file of a directory whose name `wanted` accepts, and the directory. What a server that crashed had written to
/// its WAL may exist only in the page cache.
pub fn sync_files(disk: &dyn Disk, directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
    for entry in disk.list(directory).map_err(Error::io("listing", directory))? {
        let Some(name) = entry.name.to_str().filter(|name| wanted(name)) else { continue };
        let path = directory.join(name);
        let file = disk.open(&path, OpenMode::ReadWrite).map_err(Error::io("opening", &path))?;
        file.sync_all().map_err(Error::io("syncing", &path))?;
    }
    disk.sync_directory(directory).map_err(Error::io("syncing", directory))
}
