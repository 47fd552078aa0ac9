//! `cargo xtask bench`: measurements, always side by side with other ways of doing the same.

use anyhow::{Result, bail};

use crate::args::Args;
use crate::postgres;
use crate::shell::Workspace;
use crate::soak::run_program;

/// What can be measured.
const BENCHES: &[&str] = &["commit", "failover", "sqlite", "archive", "restore"];

pub(crate) const HELP: &str = "\
cargo xtask bench commit [--markdown] [--rounds N] [--seconds N]
cargo xtask bench failover [--rounds N]
cargo xtask bench sqlite [--databases N] [--idle SECONDS]
cargo xtask bench archive [--wal-mb N]
cargo xtask bench restore [--data-mb N] [--wal-mb N] [--processes N] [--rounds N]

Builds the programs with optimisation and measures what a commit costs: a primary with Seawall's proposer and three safekeepers, beside
the same primary with nothing, and with three synchronous pg_receivewal of which two must have the WAL. Short slots (5 s unless said)
alternate, 5 rounds of them unless said. Ratios count, not the numbers of one machine. All numbers are kept in
target/bench/commit.json; --markdown prints the tables of docs/performance.md.

failover: how long clients wait when a safekeeper dies, when a proposer is started anew, when a standby takes over, and how fast a
safekeeper that was away catches up beside a plain copy; as the table of docs/performance.md.

sqlite: what replication costs writers, how far behind a replica is, how fast it is restored, memory against the size of a database, and
memory, descriptors, processor time and requests of N databases (1000 unless said) that are idle for so many seconds (20).

archive: processor time per GB of WAL, lag and memory of archiving under full ingest (1000 MB of WAL each unless said), beside pgBackRest
with lz4 and async push. restore: wall and processor time of bringing back 2000 MB of data and 2000 MB of WAL, beside pgBackRest with as
many processes (2 unless said). Both want pgbackrest, and install it on Debian when root.";

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    let Some(name) = args.next_word() else { bail!("name what to measure: {}", BENCHES.join(", ")) };
    if name == "sqlite" {
        let mut words = vec!["bench".to_owned()];
        for flag in ["--databases", "--idle"] {
            words.extend(args.value(flag)?.into_iter().flat_map(|value| [flag.to_owned(), value]));
        }
        args.finish()?;
        return run_program(workspace, "sqlite", &words);
    }
    if name == "archive" || name == "restore" {
        let flags: &[&str] = match name.as_str() {
            "archive" => &["--wal-mb"],
            _ => &["--data-mb", "--wal-mb", "--processes", "--rounds"],
        };
        let mut words = vec![name.clone()];
        for flag in flags {
            if let Some(value) = args.value(flag)? {
                words.extend([(*flag).to_owned(), value]);
            }
        }
        args.finish()?;
        postgres::ensure_pgbackrest()?;
        return run_program(workspace, "bench", &words);
    }
    if name == "failover" {
        let rounds = args.value("--rounds")?;
        args.finish()?;
        let mut words = vec!["bench".to_owned()];
        words.extend(rounds.into_iter().flat_map(|count| ["--rounds".to_owned(), count]));
        return run_program(workspace, "failovers", &words);
    }
    let mut words = vec![name.clone()];
    if args.flag("--markdown") {
        words.push("--markdown".to_owned());
    }
    for flag in ["--rounds", "--seconds"] {
        if let Some(value) = args.value(flag)? {
            words.extend([flag.to_owned(), value]);
        }
    }
    args.finish()?;
    if !BENCHES.contains(&name.as_str()) {
        bail!("there is no bench {name}; there is: {}", BENCHES.join(", "));
    }
    run_program(workspace, "bench", &words.iter().map(String::as_str).collect::<Vec<_>>())
}
