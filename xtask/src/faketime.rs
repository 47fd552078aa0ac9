//! The library that fakes clocks, for the scenario that sets them: found, or installed where that is possible without asking.

use std::path::Path;
use std::process::Command;

use crate::postgres::is_root;
use crate::shell::run;

const FOLDERS: [&str; 5] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// Finds it; on Debian, as root, installs it. Elsewhere says what is missed: the scenario passes itself by with the same sentence.
pub(crate) fn ensure() {
    if is_there() {
        return;
    }
    if is_root() && Path::new("/usr/bin/apt-get").exists() {
        let mut install = Command::new("/usr/bin/apt-get");
        install.args(["install", "-y", "faketime"]).env("DEBIAN_FRONTEND", "noninteractive");
        if run(&mut install).is_ok() && is_there() {
            return;
        }
    }
    println!(
        "libfaketime is not installed (Debian: apt-get install faketime): clocks will not be set in the scenarios"
    );
}

fn is_there() -> bool {
    FOLDERS.iter().any(|folder| Path::new(folder).join("faketime/libfaketime.so.1").exists())
}
