//! Whoever believes to be protected is: what makes the primary not wait for us is told within seconds.

use std::time::Duration;

use anyhow::{Context, Result};
use pg_harness::{get_json, scenario};
use scenarios::{SOON, Stage};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(175);
/// Settings are checked every 10 s.
const TOLD_WITHIN: Duration = Duration::from_secs(15);

async fn protected(stage: &Stage) -> Result<()> {
    stage.proposer.wait_until("protected", TOLD_WITHIN, |status| status["protected"] == true).await?;
    Ok(())
}

async fn unprotected(stage: &Stage, code: &str) -> Result<()> {
    let has = |status: &Value| {
        let reasons = status["reasons"].as_array().cloned().unwrap_or_default();
        let told =
            |reason: &Value| reason["code"] == code && reason["text"].as_str().is_some_and(|text| !text.is_empty());
        status["protected"] == false && reasons.iter().any(told)
    };
    stage.proposer.wait_until(&format!("UNPROTECTED because of {code}"), TOLD_WITHIN, has).await?;
    Ok(())
}

/// Goal: a `synchronous_standby_names` that does not require us is told with its reason, in status, log and exit code, and the way back
/// too. Method: emptied, loosened in three ways, restored in between.
#[test]
fn standby_names_that_do_not_require_us() {
    scenario("names", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        protected(&stage).await?;
        for names in ["", "FIRST 1 (seawall, x)", "ANY 1 (seawall, x)", "*"] {
            stage.postgres.set("synchronous_standby_names", names).await?;
            unprotected(&stage, "synchronous-standby-names").await.with_context(|| format!("with {names:?}"))?;
            stage.postgres.set("synchronous_standby_names", "FIRST 1 (seawall)").await?;
            protected(&stage).await.with_context(|| format!("after {names:?}"))?;
        }
        stage.proposer.wait_for_log("UNPROTECTED", SOON).await?;
        Ok(())
    });
}

/// Goal: the same for what loosens us without touching our name, and `seawall status` says so by its exit code. Method: fsync off; a
/// second client of our name; a stricter list, which is no reason.
#[test]
fn other_ways_not_to_wait_for_us() {
    scenario("ways", WITHIN, async |folder| {
        let stage = Stage::set(&folder).await?;
        protected(&stage).await?;
        stage.postgres.set("fsync", "off").await?;
        unprotected(&stage, "fsync").await?;
        let http = format!("http://{}", stage.proposer.http());
        let bin = stage.quorum.bin();
        bin.run(&folder, "status-1", ["status", "--http", &http], SOON).await?.expect_code(1)?;
        stage.postgres.set("fsync", "on").await?;
        protected(&stage).await?;
        bin.run(&folder, "status-2", ["status", "--http", &http], SOON).await?.expect_code(0)?;

        let target = folder.sub("received")?.display().to_string();
        let conninfo = format!("{} application_name=seawall", stage.postgres.conninfo());
        let receivewal = stage.postgres.bin("pg_receivewal");
        let mut other = receivewal.spawn(&folder, "receivewal", ["-D", &target, "-d", &conninfo])?;
        unprotected(&stage, "name-taken").await?;
        other.kill()?;
        protected(&stage).await?;

        stage.postgres.set("synchronous_standby_names", "FIRST 2 (seawall, elsewhere)").await?;
        let (code, status) = get_json(stage.proposer.http(), "/v1/status").await?;
        anyhow::ensure!(code == 200 && status["protected"] == true, "two required names are no reason: {status}");
        Ok(())
    });
}
