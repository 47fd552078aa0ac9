//! The system user under which PostgreSQL's programs run.
//!
//! A postmaster refuses to run as root. Started by root, everything therefore runs as the user `postgres`, whom the server packages
//! create; started by anybody else, as that user. Supplementary groups are dropped with the change of user (the standard library
//! does so for a privileged caller).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Ourselves, or another user of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    other: Option<User>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

impl RunAs {
    /// `postgres` if we are root, else ourselves. `None` if we are root and there is no such user in `/etc/passwd`.
    pub fn choose() -> Option<RunAs> {
        if !rustix::process::geteuid().is_root() {
            return Some(RunAs { other: None });
        }
        let users = fs::read_to_string("/etc/passwd").ok()?;
        user_in(&users, "postgres").map(|user| RunAs { other: Some(user) })
    }

    /// The name of the other user, if it is not ourselves.
    pub fn user(&self) -> Option<&str> {
        self.other.as_ref().map(|user| user.name.as_str())
    }

    /// A command that will run as this user.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some(user) = &self.other {
            command
                .uid(user.uid)
                .gid(user.gid)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name)
                .env("HOME", &user.home);
        }
        command
    }

    /// Gives `path` and everything below it to this user. Links are changed, not followed.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        self.own_alone(path)?;
        if self.other.is_some() && fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// Gives `path` to this user, and nothing below it.
    pub(crate) fn own_alone(&self, path: &Path) -> io::Result<()> {
        let Some(user) = &self.other else { return Ok(()) };
        let metadata = fs::symlink_metadata(path)?;
        match (metadata.uid(), metadata.gid()) == (user.uid, user.gid) {
            true => Ok(()),
            false => std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)),
        }
    }

    /// Whether this user can enter `dir`. Asked by letting the user try, because modes alone do not know access lists.
    pub fn can_enter(&self, dir: &Path) -> io::Result<bool> {
        let Some(_) = &self.other else { return Ok(true) };
        let script = ["-c", "cd -- \"$1\"", "sh"];
        let status = self.command("/bin/sh").args(script).arg(dir).stderr(Stdio::null()).status()?;
        Ok(status.success())
    }
}

/// Finds a user in the text of a passwd file: `name:password:uid:gid:comment:home:shell`.
fn user_in(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [found, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        let user = || {
            Some(User {
                name: name.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                home: PathBuf::from(home),
            })
        };
        (*found == name).then(user).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_whole_name_and_broken_lines_are_passed_over() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\npostgres2:x:5:6::/:\npostgres:x:no:1::/:\npostgres:x:101:104:a,b:/home/pg:/bin/sh\n";
        let user = user_in(text, "postgres").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_path()), (101, 104, Path::new("/home/pg")));
        assert!(user_in(text, "nobody").is_none());
    }
}
