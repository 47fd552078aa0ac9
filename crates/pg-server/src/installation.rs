//! Where PostgreSQL is installed, and how to install it.
//!
//! Search order: the folder the caller names (it alone counts), the folders of `PATH`, what a `pg_config` there says, then the places
//! packagers use: Debian, Red Hat, Homebrew, newest version first. A folder counts only if it holds a *server*
//! (`postgres`, `initdb`, `pg_ctl`): client packages also install `pg_config` and `psql`.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::run_as::RunAs;

/// Where to look for PostgreSQL. `FindOptions::default()` looks only in the places of packagers.
#[derive(Debug, Clone, Default)]
pub struct FindOptions {
    /// The folder with the server's programs, if somebody named one (`PG_BIN`, `--pg-bin`). It wins, and nothing else is tried.
    pub pg_bin: Option<PathBuf>,
    /// The value of `PATH`.
    pub path: Option<OsString>,
}

impl FindOptions {
    /// `PG_BIN` and `PATH` of this process. An empty `PG_BIN` counts as absent.
    pub fn from_env() -> FindOptions {
        let pg_bin = std::env::var_os("PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from);
        FindOptions { pg_bin, path: std::env::var_os("PATH") }
    }
}

/// There is no PostgreSQL server where we looked. Prints as one sentence that says how to get it on this system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// The folder named by the caller holds no usable server.
    #[error("{} holds no usable PostgreSQL server ({problem}); name the folder that has postgres, initdb and pg_ctl", dir.display())]
    Named {
        /// The folder.
        dir: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No server anywhere.
    #[error(
        "no PostgreSQL server found; install it with `{how}`, or set PG_BIN to the folder that has postgres and initdb"
    )]
    Nowhere {
        /// The command for this system.
        how: &'static str,
    },
}

/// A version of PostgreSQL, such as 15.13. Pre-releases (`18beta1`) count as minor 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 15 in 15.13.
    pub major: u32,
    /// 13 in 15.13.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = String;

    /// Reads what `postgres --version` prints: `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`.
    fn from_str(text: &str) -> Result<Version, String> {
        let unreadable = || format!("unreadable version {:?}", text.trim().chars().take(80).collect::<String>());
        let mut words = text.split_whitespace();
        let number = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit())).ok_or_else(unreadable)?;
        let mut parts = number.split(|c: char| !c.is_ascii_digit());
        let major = parts.next().and_then(|digits| digits.parse().ok()).ok_or_else(unreadable)?;
        let released = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let minor = if released { parts.next().and_then(|digits| digits.parse().ok()).unwrap_or(0) } else { 0 };
        Ok(Version { major, minor })
    }
}

/// The programs of one installed PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bin_dir: PathBuf,
    version: Version,
}

impl Installation {
    /// The first usable server in the order of the module's documentation. Runs `pg_config` and `postgres --version`.
    pub fn find(options: &FindOptions) -> Result<Installation, NotFound> {
        if let Some(dir) = &options.pg_bin {
            return Installation::at(dir).map_err(|problem| NotFound::Named { dir: dir.clone(), problem });
        }
        let path_dirs: Vec<PathBuf> = options.path.iter().flat_map(std::env::split_paths).collect();
        let configured = path_dirs.iter().map(|dir| dir.join("pg_config")).filter_map(|program| bindir_of(&program));
        path_dirs
            .iter()
            .cloned()
            .chain(configured)
            .chain(packaged_dirs(Path::new("/")))
            .find_map(|dir| Installation::at(&dir).ok())
            .ok_or(NotFound::Nowhere { how: how_to_install() })
    }

    /// The server in `dir`, or what is wrong with that folder.
    fn at(dir: &Path) -> Result<Installation, String> {
        if let Some(missing) = ["postgres", "initdb", "pg_ctl"].into_iter().find(|name| !dir.join(name).is_file()) {
            return Err(format!("it has no {missing}"));
        }
        let program = dir.join("postgres");
        let output =
            Command::new(&program).arg("--version").output().map_err(|err| format!("postgres does not run: {err}"))?;
        let version = String::from_utf8_lossy(&output.stdout).parse()?;
        // Links to a few of the programs may stand elsewhere, in /usr/local/bin say; the folder they lead to has them all. The folder is
        // absolute, because servers are started in another working directory.
        let real = fs::canonicalize(&program).ok().and_then(|program| program.parent().map(Path::to_path_buf));
        let bin_dir = real.filter(|real| real.join("initdb").is_file()).unwrap_or_else(|| dir.to_path_buf());
        let bin_dir = fs::canonicalize(&bin_dir).unwrap_or(bin_dir);
        Ok(Installation { bin_dir, version })
    }

    /// The folder with `postgres`, `initdb`, `pg_ctl` and usually the client programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The version of the server.
    pub fn version(&self) -> Version {
        self.version
    }

    /// A command for one of its programs (`pg_basebackup`, `pg_waldump`…), run as `run_as`, in the C locale and without the caller's
    /// `PG*` variables, which would change what the program does.
    pub fn command(&self, program: &str, run_as: &RunAs) -> Command {
        let mut command = run_as.command(self.bin_dir.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C");
        command
    }
}

/// What `pg_config --bindir` says, if that program exists and runs.
fn bindir_of(pg_config: &Path) -> Option<PathBuf> {
    if !pg_config.is_file() {
        return None;
    }
    let output = Command::new(pg_config).arg("--bindir").output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(line.trim()))
}

/// The folders packagers use below `root`, newest version first.
fn packaged_dirs(root: &Path) -> Vec<PathBuf> {
    // (folder, prefix of the versioned name, what follows it)
    let families = [
        ("usr/lib/postgresql", "", "bin"),
        ("usr", "pgsql-", "bin"),
        ("opt/homebrew/opt", "postgresql@", "bin"),
        ("usr/local/opt", "postgresql@", "bin"),
    ];
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (folder, prefix, below) in families {
        for entry in fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let version =
                name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|version| version.parse().ok());
            if let Some(version) = version {
                found.push((version, entry.path().join(below)));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, dir)| dir).collect()
}

fn how_to_install() -> &'static str {
    if cfg!(target_os = "macos") {
        "brew install postgresql@17"
    } else if Path::new("/usr/bin/apt-get").exists() {
        "apt-get install postgresql postgresql-contrib"
    } else if Path::new("/usr/bin/dnf").exists() {
        "dnf install postgresql-server postgresql-contrib"
    } else {
        "your system's package manager (package postgresql)"
    }
}

/// Why [`install_on_debian`] did not install.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Not root, or not a system with apt-get.
    #[error("installing PostgreSQL needs root and apt-get; {0}")]
    NotHere(NotFound),
    /// A program could not be run or failed.
    #[error("`{command}` failed ({outcome}); run it by hand to see why")]
    Failed {
        /// What was run.
        command: String,
        /// Its exit status, or why it did not run.
        outcome: String,
    },
    /// Installed, but still not found.
    #[error("PostgreSQL was installed and still is not found: {0}")]
    StillNotFound(#[from] NotFound),
}

/// Installs PostgreSQL with apt-get and finds it. Only for root on a system with apt-get; what apt-get prints goes to our standard
/// error, so that standard output stays the caller's.
pub fn install_on_debian() -> Result<Installation, InstallError> {
    let apt_get = Path::new("/usr/bin/apt-get");
    if !rustix::process::geteuid().is_root() || !apt_get.exists() {
        return Err(InstallError::NotHere(NotFound::Nowhere { how: how_to_install() }));
    }
    for args in [&["update"][..], &["install", "-y", "postgresql", "postgresql-contrib"]] {
        let failed = |outcome: String| InstallError::Failed { command: format!("apt-get {}", args.join(" ")), outcome };
        let status = Command::new(apt_get)
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null())
            .stdout(io::stderr())
            .status()
            .map_err(|err| failed(err.to_string()))?;
        if !status.success() {
            return Err(failed(status.to_string()));
        }
    }
    Ok(Installation::find(&FindOptions { pg_bin: None, path: std::env::var_os("PATH") })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn program(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let draft = path.with_extension("draft");
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        // Copied by another process: a file this one has just written may still be open in a child another test forks, and is then
        // too busy to be run.
        assert!(Command::new("cp").arg(&draft).arg(path).status().unwrap().success());
    }

    fn server(dir: &Path, version: &str) {
        program(&dir.join("postgres"), &format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n"));
        program(&dir.join("initdb"), "#!/bin/sh\n");
        program(&dir.join("pg_ctl"), "#!/bin/sh\n");
    }

    #[test]
    fn versions_of_every_packager_are_read() {
        for (text, major, minor) in [
            ("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)", 15, 13),
            ("postgres (PostgreSQL) 18beta1", 18, 0),
            ("postgres (PostgreSQL) 17devel", 17, 0),
            ("postgres (PostgreSQL) 13.21\n", 13, 21),
            ("postgres (PostgreSQL) 16", 16, 0),
        ] {
            assert_eq!(text.parse(), Ok(Version { major, minor }), "{text}");
        }
        for text in ["", "postgres", "99999999999999.1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn packaged_folders_are_newest_first() {
        let root = tempfile::tempdir().unwrap();
        for dir in [
            "usr/lib/postgresql/9/bin",
            "usr/lib/postgresql/15/bin",
            "usr/pgsql-17/bin",
            "opt/homebrew/opt/postgresql@16/bin",
        ] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        fs::create_dir_all(root.path().join("usr/lib/postgresql/common")).unwrap();
        let names: Vec<_> = packaged_dirs(root.path())
            .iter()
            .map(|dir| dir.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "usr/pgsql-17/bin",
                "opt/homebrew/opt/postgresql@16/bin",
                "usr/lib/postgresql/15/bin",
                "usr/lib/postgresql/9/bin"
            ]
        );
    }

    #[test]
    fn the_named_folder_wins_and_is_not_replaced_by_another() {
        let root = tempfile::tempdir().unwrap();
        let (named, on_path) = (root.path().join("named"), root.path().join("path"));
        server(&named, "17.5");
        server(&on_path, "16.9");
        let path = Some(on_path.clone().into_os_string());
        let find = |pg_bin: Option<&Path>| {
            Installation::find(&FindOptions { pg_bin: pg_bin.map(Path::to_path_buf), path: path.clone() })
        };
        assert_eq!(find(Some(&named)).unwrap().version(), Version { major: 17, minor: 5 });
        assert_eq!(find(None).unwrap().version(), Version { major: 16, minor: 9 });
        fs::remove_file(named.join("initdb")).unwrap();
        let err = find(Some(&named)).unwrap_err();
        assert!(err.to_string().contains("it has no initdb"), "{err}");
    }

    #[test]
    fn a_client_only_folder_leads_on_through_pg_config() {
        let root = tempfile::tempdir().unwrap();
        let (client, real) = (root.path().join("client"), root.path().join("real"));
        server(&real, "14.18");
        program(&client.join("pg_config"), &format!("#!/bin/sh\necho {}\n", real.display()));
        let found = Installation::find(&FindOptions { pg_bin: None, path: Some(client.into_os_string()) }).unwrap();
        assert_eq!(found.version(), Version { major: 14, minor: 18 });
        assert_eq!(found.bin_dir(), fs::canonicalize(&real).unwrap());
    }

    #[test]
    fn links_to_some_programs_lead_to_the_folder_with_all() {
        let root = tempfile::tempdir().unwrap();
        let (links, real) = (root.path().join("links"), root.path().join("real"));
        server(&real, "15.2");
        fs::create_dir(&links).unwrap();
        for name in ["postgres", "initdb", "pg_ctl"] {
            std::os::unix::fs::symlink(real.join(name), links.join(name)).unwrap();
        }
        let found = Installation::find(&FindOptions { pg_bin: None, path: Some(links.into_os_string()) }).unwrap();
        assert_eq!(found.bin_dir(), fs::canonicalize(&real).unwrap());
    }

    #[test]
    fn nothing_found_says_how_to_install() {
        let err = NotFound::Nowhere { how: how_to_install() };
        assert!(err.to_string().contains("install"), "{err}");
    }
}
