//! `wal-push` and `wal-fetch` say to PostgreSQL exactly what is so, by their exit codes, with a quorum behind the archive.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Folder, scenario, wait_for};
use scenarios::{SOON, Stage};

/// A file name that nobody has.
const NOWHERE: &str = "0000000100000000000000F0";

/// Runs a command in a data directory, as PostgreSQL does; its exit code.
async fn in_directory(dir: &Path, args: &[&str]) -> Result<i32> {
    let (dir, program) = (dir.to_owned(), Bin::seawall()?.path().to_owned());
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let run = move || {
        std::process::Command::new(program)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
    };
    let status = tokio::time::timeout(SOON, tokio::task::spawn_blocking(run)).await.context("it does not end")???;
    status.code().context("a signal ended it")
}

/// The archive's objects.
fn objects(dir: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            objects(&path, found)?;
        } else {
            found.push(path.display().to_string());
        }
    }
    Ok(())
}

/// Goal: with a quorum `wal-push` uploads nothing and answers once the file is committed and archived; `wal-fetch` brings archived files,
/// the incomplete one through the safekeepers, says 1 only for what is nowhere, and without a majority 1 to a standby and 255 to a
/// recovery. Method: one full and one begun segment; then the safekeepers' archive gets no more; then two of three are killed.
#[test]
fn exit_codes_say_what_is_so() {
    scenario("wal_commands", Duration::from_secs(150), async |folder: Folder| {
        let dir = folder.sub("archive")?;
        let archive = format!("--archive={}", dir.display());
        let set = |quorum: pg_harness::QuorumBuilder| quorum.arg(&archive);
        let mut stage = Stage::set_with(&folder, set, |postgres| postgres.segment_size_mb(1)).await?;
        let client = stage.client().await?;
        let row = client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]).await?;
        let full: String = row.get(0);
        client.batch_execute("CREATE TABLE t (a int); SELECT pg_switch_wal(); INSERT INTO t VALUES (1)").await?;
        let row = client.query_one("SELECT pg_walfile_name(pg_current_wal_lsn())", &[]).await?;
        let begun: String = row.get(0);
        ensure!(full != begun);
        let (url, quorum) = (dir.display().to_string(), stage.quorum.addresses());
        let pg_wal = stage.postgres.data_dir().join("pg_wal");

        let path = pg_wal.join(&full).display().to_string();
        let push = ["wal-push", "--replica", &url, "--safekeepers", &quorum, &path, &full];
        // Until its uploader has begun there is no archive, and PostgreSQL would ask again.
        wait_for("a segment that is committed and archived", SOON, async || {
            Ok((in_directory(folder.path(), &push).await? == 0).then_some(()))
        })
        .await?;
        let mut there = Vec::new();
        objects(&dir, &mut there)?;
        ensure!(!there.iter().any(|key| key.contains("solo-1")), "wal-push uploaded something: {there:?}");

        let target = folder.path().join("fetched");
        let to = target.display().to_string();
        let fetch = |name: &str, more: &[&str]| {
            let all = [&["wal-fetch", "--replica", &url, "--prefetch", "0"], more, &[name, &to]].concat();
            all.into_iter().map(str::to_owned).collect::<Vec<String>>()
        };
        let run = async |args: Vec<String>, dir: &Path| {
            in_directory(dir, &args.iter().map(String::as_str).collect::<Vec<_>>()).await
        };
        ensure!(run(fetch(&full, &[]), folder.path()).await? == 0);
        ensure!(fs::read(&target)? == fs::read(pg_wal.join(&full))?, "another segment was fetched");
        let with = ["--safekeepers", quorum.as_str()];
        let end = stage.all_have_everything().await?;
        ensure!(run(fetch(&begun, &with), folder.path()).await? == 0);
        let (fetched, used) = (fs::read(&target)?, (end % (1 << 20)) as usize);
        ensure!(
            fetched.len() == 1 << 20 && fetched[..used] == fs::read(pg_wal.join(&begun))?[..used],
            "the begun segment"
        );
        for more in [&[][..], &with[..]] {
            ensure!(run(fetch(NOWHERE, more), folder.path()).await? == 1, "nowhere, {more:?}");
            ensure!(run(fetch("000000F0.history", more), folder.path()).await? == 1, "no such TLI, {more:?}");
        }

        // Nobody can say what the quorum has: a standby asks again, a recovery must not take it for the end.
        for id in [1, 2] {
            stage.quorum.node(id)?.kill()?;
        }
        let standby = folder.sub("standby")?;
        fs::write(standby.join("standby.signal"), "")?;
        let args = fetch(NOWHERE, &with);
        let (to_standby, to_other) = tokio::join!(run(args.clone(), &standby), run(args, folder.path()));
        ensure!(to_standby? == 1, "to a standby");
        ensure!(to_other? == 255, "to a recovery");
        ensure!(run(fetch(&full, &[]), folder.path()).await? == 0, "the archive alone needs no quorum");
        ensure!(in_directory(folder.path(), &push).await? == 1, "without a majority nothing is known to be committed");
        for id in [1, 2] {
            stage.quorum.node(id)?.revive().await?;
        }
        wait_for("wal-push after the quorum came back", SOON, async || {
            Ok((in_directory(folder.path(), &push).await? == 0).then_some(()))
        })
        .await
    });
}
