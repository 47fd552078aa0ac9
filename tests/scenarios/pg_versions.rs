//! Every PostgreSQL that is here is protected: those installed, and those of `SEAWALL_TEST_PG_BINS`, folders with `:` between.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, Ledger, Signal, Up, scenario};
use scenarios::SOON;

/// For one version.
const WITHIN: Duration = Duration::from_secs(90);

/// The folders with `initdb` and `postgres`.
pub(crate) fn installed() -> Vec<PathBuf> {
    let named = std::env::var_os("SEAWALL_TEST_PG_BINS").unwrap_or_default();
    let system = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> =
        system.map(|entry| entry.path().join("bin")).chain(std::env::split_paths(&named)).collect();
    dirs.retain(|dir| dir.join("initdb").is_file() && dir.join("postgres").is_file());
    dirs
}

async fn is_protected(folder: &Folder, pg_bin: &str) -> Result<()> {
    let mut up = Up::start(folder, ["--pg-bin", pg_bin])?;
    up.protected(SOON).await?;
    let client = up.client().await?;
    let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    Ledger::create(&client).await?;
    let ledger = Ledger::start(&up.conninfo()?, 2)?;
    for part in ["safekeeper 1", "safekeeper 2", "safekeeper 3", "proposer", "postgres"] {
        let pid = up.kill_part(part)?;
        up.started_again(part, pid, SOON).await?;
        ledger.wait_for_more(20, SOON).await.with_context(|| format!("PostgreSQL {version} after {part}"))?;
    }
    let acknowledged = ledger.stop().await?;
    up.signal(Signal::INT)?;
    let ended = up.wait(SOON).await?;
    ensure!(ended.code() == Some(0), "PostgreSQL {version}: it ended with {ended}: {}", up.log()?);
    up.start()?;
    up.protected(SOON).await?;
    acknowledged.verify(&up.client().await?).await.with_context(|| format!("PostgreSQL {version}"))
}

/// Goal: no version is protected worse than another. Method: with each, `seawall up`, commits, kill -9 of every part, a stop and a start.
#[test]
fn every_installed_version() {
    for pg_bin in installed() {
        println!("{}", pg_bin.display());
        scenario("version", WITHIN, async |folder| is_protected(&folder, &pg_bin.display().to_string()).await);
    }
}
