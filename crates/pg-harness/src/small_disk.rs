//! [`SmallDisk`]: a file system of a few MiB, which can be filled and emptied while a program runs on it.
//!
//! A tmpfs in a mount namespace of its own: nobody else sees it, and it is gone with the process that holds the namespace. That takes
//! the right to mount.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bin::Bin;
use crate::folder::Folder;
use crate::process::Process;

const MOUNTED_WITHIN: Duration = Duration::from_secs(20);
static BLOCK: [u8; 64 << 10] = [0; 64 << 10];

/// A small file system over a folder. Programs run on it through [`SmallDisk::bin`].
#[derive(Debug)]
pub struct SmallDisk {
    holder: Process,
    pid: u32,
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of this many MiB over the folder `path`, whatever is in it; `None`, and a sentence on standard error, where nobody
    /// lets us mount.
    #[expect(clippy::print_stderr, reason = "who reads the output of a test must see what was not tested")]
    pub async fn over(folder: &Folder, path: &Path, mib: u64) -> Result<Option<SmallDisk>> {
        let script = "mount -t tmpfs -o size=\"$2\"m tmpfs \"$1\" && echo mounted && exec cat";
        let name = path.file_name().map_or_else(|| "disk".to_owned(), |name| name.to_string_lossy().into_owned());
        let args = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"].map(str::to_owned);
        let args = args.into_iter().chain([path.display().to_string(), mib.to_string()]);
        let Ok(mut holder) = Bin::at("unshare").spawn(folder, &format!("disk-of-{name}"), args) else {
            eprintln!("skipped: there is no program `unshare` to make a small disk with");
            return Ok(None);
        };
        match holder.wait_for_output("mounted", MOUNTED_WITHIN).await {
            Ok(_) => {}
            Err(error) if holder.log()?.contains("ermi") => {
                eprintln!("skipped: mounting a small disk is not permitted: {error:#}");
                return Ok(None);
            }
            Err(error) => return Err(error.context("mount a small disk")),
        }
        let pid = holder.pid().context("the holder of a small disk is gone")?;
        Ok(Some(SmallDisk { holder, pid, path: path.to_owned() }))
    }

    /// The program, seeing this disk.
    pub fn bin(&self, bin: &Bin) -> Bin {
        let (target, mount) = (self.pid.to_string(), "--mount");
        bin.clone().through(["nsenter", "--target", &target, mount, "--"])
    }

    /// A path on the disk, as seen from outside.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        Path::new("/proc").join(self.pid.to_string()).join("root").join(inside)
    }

    fn ballast(&self) -> Result<File> {
        let path = self.seen(&self.path).join("ballast");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.with_context(|| format!("open {}", path.display()))
    }

    /// Fills it up to the last byte.
    pub fn fill(&mut self) -> Result<()> {
        anyhow::ensure!(self.holder.is_running()?, "the holder of a small disk is gone");
        let mut file = self.ballast()?;
        loop {
            match file.write_all(&BLOCK) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => bail!("fill a small disk: {error}"),
            }
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub fn empty(&self) -> Result<()> {
        Ok(self.ballast()?.set_len(0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn it_runs_full_and_has_room_again() {
        let folder = Folder::new("small_disk").unwrap();
        let path = folder.sub("small").unwrap();
        let Some(mut disk) = SmallDisk::over(&folder, &path, 2).await.unwrap() else { return };
        let sh = disk.bin(&Bin::at("/bin/sh"));
        let script = "dd if=/dev/zero of=\"$0\"/x bs=65536 count=3 2>&1 && echo written";
        let write = async |name: &str| {
            let args = ["-c", script, &path.display().to_string()].map(str::to_owned);
            sh.run(&folder, name, args, Duration::from_secs(20)).await.unwrap().stdout
        };
        disk.fill().unwrap();
        assert!(write("full").await.contains("No space left"));
        disk.empty().unwrap();
        assert!(write("room").await.contains("written"));
        assert!(fs::read_dir(&path).unwrap().next().is_none(), "nobody else sees it");
        assert!(disk.seen(&path).join("x").exists());
    }
}
