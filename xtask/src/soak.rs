//! `cargo xtask soak`: long runs with faults.

use std::ffi::OsStr;

use anyhow::{Context, Result, bail};

use crate::args::Args;
use crate::postgres;
use crate::shell::{Workspace, run as run_command};

pub(crate) const HELP: &str = "\
cargo xtask soak [sqlite|archive|failover|patroni] [--rounds N] [--seed N] [--parallel N]

Builds the programs with optimisation and runs N rounds (100 unless said) of faults against them: killed, stopped and restarted
safekeepers, proposers and primaries, while clients commit. After each round every acknowledged row must be there, and the bytes the
safekeepers keep must be equal. One seed is one sequence of victims; without one it is drawn, and printed.

soak failover: N failovers (30 unless said) under load: the primary is killed, frozen and woken as a zombie, or loses its proposer; a standby
takes over, the old primary comes back by pg_rewind or a base backup.

soak patroni: N rounds (2 unless said) with Debian's Patroni and etcd, which are installed if they are not there: the leader's machine dies and
comes back, then a switchover.

soak sqlite: writers and the replicator of a SQLite file are killed, and after each round the replica is restored, by an independent reader
and by us in turn; --parallel N does so with N databases at once. First a life of the WAL of more than 4 GiB and a database of more than 1
GiB are restored, which takes 6 GB of disk for a while.
soak archive: whoever archives is killed, and at last every object is compared with the safekeepers' files.

  cargo xtask soak --rounds 1000
  cargo xtask soak archive --rounds 50
  cargo xtask soak sqlite --rounds 500";

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    let rounds: Option<u32> = match args.value("--rounds")? {
        Some(text) => Some(text.parse().with_context(|| format!("{text:?} is not a number of rounds"))?),
        None => None,
    };
    let seed: Option<u64> = match args.value("--seed")? {
        Some(text) => Some(text.parse().with_context(|| format!("{text:?} is not a seed"))?),
        None => None,
    };
    let kind = args.next_word();
    let (program, word) = match kind.as_deref() {
        None => ("soak", None),
        Some("failover") => ("failovers", Some("soak")),
        Some("patroni") => {
            postgres::ensure_packages(&[("patroni", "/usr/bin/patroni"), ("etcd-server", "/usr/bin/etcd")])?;
            ("failovers", Some("patroni"))
        }
        Some("sqlite") => ("sqlite", Some("soak")),
        Some("archive") => ("soak", Some("archive")),
        Some(other) => bail!("there is no soak {other}; there are: sqlite, archive, failover, patroni"),
    };
    let parallel: Option<u32> = match args.value("--parallel")? {
        Some(_) if program != "sqlite" => bail!("--parallel is for soak sqlite"),
        Some(text) => Some(text.parse().with_context(|| format!("{text:?} is not a number"))?),
        None => None,
    };
    args.finish()?;
    let usual = match kind.as_deref() {
        Some("failover") => 30,
        Some("patroni") => 2,
        _ => 100,
    };
    if program == "sqlite" {
        run_program(workspace, "sqlite", &["large"])?;
    }
    let mut words: Vec<String> = word.map(str::to_owned).into_iter().collect();
    words.extend(["--rounds".to_owned(), rounds.unwrap_or(usual).to_string()]);
    words.extend(seed.into_iter().flat_map(|seed| ["--seed".to_owned(), seed.to_string()]));
    words.extend(parallel.into_iter().flat_map(|count| ["--parallel".to_owned(), count.to_string()]));
    run_program(workspace, program, &words)
}

/// Runs a program of the scenarios crate against release builds of ours.
pub(crate) fn run_program(workspace: &Workspace, program: &str, args: &[impl AsRef<OsStr>]) -> Result<()> {
    postgres::ensure()?;
    run_command(&mut workspace.cargo([
        "build",
        "--release",
        "--locked",
        "-p",
        "seawall",
        "-p",
        "safekeeper",
        "-p",
        "walproposer",
    ]))?;
    let mut command = workspace.cargo(["run", "--release", "--locked", "-p", "scenarios", "--bin", program, "--"]);
    run_command(command.args(args).env("SEAWALL_BIN_DIR", workspace.bin_dir("release")))
}
