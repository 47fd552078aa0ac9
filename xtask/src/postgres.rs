//! A PostgreSQL server for the tests: found, or installed where that is possible without asking.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell::run;

/// Finds a server; on Debian, as root, installs one. Elsewhere the error is the sentence that tells how to get one.
pub(crate) fn ensure() -> Result<()> {
    if let Some(dir) = find() {
        println!("PostgreSQL: {}", dir.display());
        return Ok(());
    }
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "no PostgreSQL server found; install one (Debian: apt-get install postgresql postgresql-contrib, macOS: brew install postgresql@17) or set PG_BIN to its folder"
        );
    }
    for args in [&["update"][..], &["install", "-y", "postgresql", "postgresql-contrib"]] {
        run(Command::new("/usr/bin/apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    match find() {
        Some(_) => Ok(()),
        None => bail!("PostgreSQL was installed and still is not found; set PG_BIN to its folder"),
    }
}

/// pgBackRest, for the benches beside it: found, or installed as root on Debian.
pub(crate) fn ensure_pgbackrest() -> Result<()> {
    ensure_packages(&[("pgbackrest", "/usr/bin/pgbackrest")])
}

/// Finds programs of Debian packages, (package, program); as root, installs what is missing.
pub(crate) fn ensure_packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(_, program)| !Path::new(program).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("{} missing; on Debian: apt-get install {}", missing.join(" and "), missing.join(" "));
    }
    run(Command::new("/usr/bin/apt-get").arg("update").env("DEBIAN_FRONTEND", "noninteractive"))?;
    let install = ["install", "-y", "--no-install-recommends"];
    run(Command::new("/usr/bin/apt-get").args(install).args(&missing).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The first folder with a server: `PG_BIN` alone if it is set, else `PATH` and the places of packagers.
fn find() -> Option<PathBuf> {
    let is_server = |dir: &PathBuf| dir.join("postgres").is_file() && dir.join("initdb").is_file();
    if let Some(dir) = std::env::var_os("PG_BIN").filter(|dir| !dir.is_empty()) {
        return Some(PathBuf::from(dir)).filter(is_server);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let packaged = ["/usr/lib/postgresql", "/usr", "/opt/homebrew/opt", "/usr/local/opt"];
    let below = packaged
        .iter()
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
        .map(|entry| entry.path().join("bin"));
    std::env::split_paths(&path).chain(below).find(is_server)
}

pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
