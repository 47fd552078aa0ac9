//! Object stores for the tests: Garage, built from its crate, and moto, from PyPI.
//!
//! Both are put under `target/servers` once, outside of any test, and found there by the harness. Garage takes preconditions and
//! ignores them, as many S3 stores do; moto answers 412, as S3 itself does. Each is pinned: an upgrade is a change of this file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell::{Workspace, run};

const GARAGE: &str = "2.5.0";
const MOTO: &str = "5.2.5";

/// Where the servers are: `SEAWALL_SERVERS_DIR`, for machines that keep them elsewhere, else `servers` in the target folder.
pub(crate) fn dir(workspace: &Workspace) -> PathBuf {
    match std::env::var_os("SEAWALL_SERVERS_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => workspace.metadata.target_directory.join("servers").into_std_path_buf(),
    }
}

/// Installs what is missing. The first time takes minutes, every other time nothing.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let dir = dir(workspace);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    moto(&dir)?;
    garage(&dir)
}

fn garage(dir: &Path) -> Result<()> {
    let program = dir.join("bin/garage");
    if says(Command::new(&program).arg("--version"), GARAGE) {
        println!("Garage: {}", program.display());
        return Ok(());
    }
    println!("Garage {GARAGE} is built once; on two cores this takes some minutes");
    let build = dir.join("build");
    let mut command = politely(&std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["install", "garage", "--version", GARAGE, "--locked", "--quiet"]);
    command.args(["--no-default-features", "--features", "bundled-libs,sqlite"]);
    command.arg("--root").arg(dir).arg("--target-dir").arg(&build);
    // A server for tests is built often and asked little: what its own profile spends on speed is left out.
    for (name, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1"), ("DEBUG", "false")] {
        command.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    let built = run(&mut command);
    // Some gigabytes nobody needs any more, whatever came of it.
    fs::remove_dir_all(&build).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error).with_context(|| format!("remove {}", build.display())),
    })?;
    built.context(
        "Garage, the S3 server of the tests, cannot be built: it needs the registry of Rust packages and a C compiler (Debian: apt-get install build-essential pkg-config); or put a built `garage` into `bin` of a folder and name the folder in SEAWALL_SERVERS_DIR",
    )
}

fn moto(dir: &Path) -> Result<()> {
    let venv = dir.join("moto");
    let python = venv.join("bin/python");
    let version = || {
        let ask = "import importlib.metadata as m; print(m.version('moto'))";
        says(Command::new(&python).args(["-c", ask]), MOTO)
    };
    if version() {
        println!("moto: {}", venv.display());
        return Ok(());
    }
    // What a cut-off attempt left is no environment.
    if venv.exists() {
        fs::remove_dir_all(&venv).with_context(|| format!("remove {}", venv.display()))?;
    }
    let need = "moto, the S3 server of the tests that answers preconditions, cannot be installed";
    if !Command::new("python3").args(["-m", "venv"]).arg(&venv).status().is_ok_and(|status| status.success()) {
        bail!("{need}: it needs python3 with venv (Debian: apt-get install python3-venv)");
    }
    let package = format!("moto[server]=={MOTO}");
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", &package]))
        .with_context(|| format!("{need}: it needs PyPI"))
}

/// Whether a command succeeds and its output contains `text`.
fn says(command: &mut Command, text: &str) -> bool {
    let output = command.stderr(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success() && String::from_utf8_lossy(&output.stdout).contains(text))
}

/// The program, behind everything else that wants the machine where that can be asked for.
fn politely(program: &std::ffi::OsStr) -> Command {
    let nice = Path::new("/usr/bin/nice");
    if !nice.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(nice);
    command.args(["-n", "10"]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_looked_for_in_what_succeeds() {
        let sh = |script: &str, text: &str| says(Command::new("/bin/sh").args(["-c", script]), text);
        assert!(sh("echo garage v2.5.0", "2.5.0"));
        assert!(!sh("echo garage v2.4.0", "2.5.0"));
        assert!(!sh("echo 2.5.0; exit 1", "2.5.0"));
        assert!(!says(&mut Command::new("/no/such/program"), ""));
    }

    #[test]
    fn a_polite_program_is_the_program() {
        assert!(says(politely("/bin/echo".as_ref()).arg("hello"), "hello"));
    }
}
