//! Machines whose clocks jump and whose memory is short.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, scenario};
use scenarios::{Logs, SOON, Stage};

const WITHIN: Duration = Duration::from_secs(175);

/// Where packagers put the library that fakes clocks.
fn libfaketime() -> Option<String> {
    let folders =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64", "/usr/local/lib"];
    let paths = folders.map(|folder| format!("{folder}/faketime/libfaketime.so.1"));
    paths.into_iter().find(|path| Path::new(path).exists())
}

/// Goal: no safety and no leadership hangs on what time it is. Method: every part runs with a wall clock of the test's, which jumps by a
/// day, back by two, and by years, for all and for one alone, under load: the term stands, commits go on.
#[test]
fn clocks_that_jump_change_nothing() {
    scenario("clocks", WITHIN, async |folder| {
        let Some(library) = libfaketime() else {
            eprintln!("skipped: libfaketime is not installed (Debian: apt-get install faketime)");
            return Ok(());
        };
        let clock = |name: &str| folder.path().join(format!("clock-{name}"));
        let set = |name: &str, offset: &str| -> Result<()> {
            // Put there whole: the library may read at any moment.
            let (path, new) = (clock(name), folder.path().join("clock-new"));
            fs::write(&new, offset)?;
            Ok(fs::rename(&new, &path)?)
        };
        for name in ["all", "one"] {
            set(name, "+0")?;
        }
        let seawall = Bin::seawall()?;
        let with_clock = |name: &str| {
            let bin = seawall.clone().env("LD_PRELOAD", &library).env("FAKETIME_NO_CACHE", "1");
            // The monotonic clock is what it is: it cannot be set.
            bin.env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("DONT_FAKE_MONOTONIC", "1")
                .env("FAKETIME_TIMESTAMP_FILE", &clock(name).display().to_string())
        };
        let (all, one) = (with_clock("all"), with_clock("one"));
        let mut stage = Stage::set_with(&folder, |quorum| quorum.bin(all).bin_of(1, one), |postgres| postgres).await?;
        let ledger = stage.ledger(3).await?;
        ledger.wait_for_more(50, SOON).await?;
        // The settings are looked at every ten seconds.
        let status = stage.proposer.wait_until("protection", SOON, |status| status["protected"] == true).await?;
        let term = status["term"].clone();
        ensure!(term.is_u64(), "no term");
        for (name, offset) in [
            ("all", "+86400"),
            ("one", "-86400"),
            ("all", "-86400"),
            ("one", "+63072000"),
            ("all", "+63072000"),
            ("all", "+0"),
        ] {
            set(name, offset)?;
            ledger.wait_for_more(60, SOON).await?;
            let status = stage.proposer.status().await?;
            ensure!(status["term"] == term, "a clock that was set by {offset} s ended term {term}: {status}");
            ensure!(status["protected"] == true, "unprotected after {offset}: {}", status["reasons"]);
        }
        // The clocks were faked indeed: a log line begins with the year.
        let year = |log: String| log.get(..4).unwrap_or_default().to_owned();
        let now = year(stage.quorum.node(1)?.log()?);
        stage.quorum.node(1)?.kill()?;
        set("one", "+63072000")?;
        stage.quorum.node(1)?.revive().await?;
        let later = year(stage.quorum.node(1)?.log()?);
        ensure!(now != later, "the clock of safekeeper 1 was not set: it is {later}");
        stage.all_have_everything().await?;
        stage.settle(ledger).await
    });
}

/// The limit of a running process on memory it can write, in bytes.
fn limit_memory(pid: u32, bytes: u64) -> Result<()> {
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--data={bytes}:{bytes}")]).status();
    let status = status.context("run prlimit")?;
    ensure!(status.success(), "prlimit: {status}");
    Ok(())
}

/// Goal: memory is bounded, and who runs out of it all the same is one who crashed. Method: every part gets 512 MiB, one safekeeper hangs
/// while 300 MiB are written, comes back and catches up: nobody died. Then one safekeeper gets no more memory at all: it may end, commits
/// go on, and a restart without the limit brings it back.
#[test]
fn memory_is_bounded_and_its_end_is_a_crash() {
    scenario("memory", WITHIN, async |folder| {
        if Command::new("prlimit").arg("--version").output().is_err() {
            eprintln!("skipped: there is no program `prlimit`");
            return Ok(());
        }
        let mut stage = Stage::set(&folder).await?;
        let mut pids: Vec<Option<u32>> = stage.quorum.nodes().iter().map(|node| node.pid()).collect();
        pids.push(stage.proposer.pid());
        for pid in pids {
            limit_memory(pid.context("a part is not running")?, 512 << 20)?;
        }
        let ledger = stage.ledger(2).await?;
        ledger.wait_for_more(20, SOON).await?;
        stage.quorum.node(3)?.pause()?;
        stage.write_wal(300).await?;
        stage.quorum.node(3)?.resume()?;
        stage.all_have_everything().await?;
        for id in 1..=3 {
            ensure!(stage.quorum.node(id)?.is_running()?, "safekeeper {id} died: {}", stage.quorum.node(id)?.log()?);
        }
        ensure!(stage.proposer.is_running()?, "the proposer died: {}", stage.proposer.log()?);

        let pid = stage.quorum.node(2)?.pid().context("safekeeper 2 is not running")?;
        limit_memory(pid, 1 << 20)?;
        stage.write_wal(16).await?;
        ledger.wait_for_more(50, SOON).await?;
        stage.quorum.node(2)?.kill()?;
        stage.quorum.node(2)?.revive().await?;
        stage.all_have_everything().await?;
        Logs::new().compare(&stage).await?;
        stage.settle(ledger).await
    });
}
