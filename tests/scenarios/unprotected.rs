//! Whoever believes to be protected is: what makes the primary not wait for us is told within seconds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Forwarder, Postgres, get_json, scenario};
use scenarios::{CLUSTER, SOON, Stage};
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
        ensure!(code == 200 && status["protected"] == true, "two required names are no reason: {status}");
        Ok(())
    });
}

/// Goal: settings are those of the server whose commits we hold, or nobody believes them. Method: the proposer connects through a
/// forwarder that now leads to a copy with settings as they should be and rows of its own; the connection for checks is ended, the stream
/// stays; the original's settings are loosened. Nobody is protected until the forwarder leads back.
#[test]
fn checks_that_reach_another_server() {
    scenario("checks", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.postgres.stop(pg_harness::Mode::Fast, SOON).await?;
        stage.postgres.copy_data("copy").await?;
        stage.postgres.start().await?;
        let copy = Postgres::builder(&folder).name("copy").in_place();
        let copy = copy.setting("synchronous_standby_names", "").start().await?;
        // As it was it could lead: it held the same bytes. Now the two have parted.
        copy.client().await?.batch_execute("CREATE TABLE other AS SELECT generate_series(1, 100000)").await?;
        copy.set("synchronous_standby_names", "seawall").await?;

        stage.proposer.kill()?;
        let forwarder = Forwarder::to(stage.postgres.port()).await?;
        let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", forwarder.port());
        stage.proposer = stage.quorum.proposer(CLUSTER, &conninfo).await?;
        stage.proposer.wait_ready(SOON).await?;
        stage.client().await?.batch_execute("CREATE TABLE ours AS SELECT 1 AS a").await?;
        protected(&stage).await?;

        forwarder.retarget(copy.port());
        stage.postgres.set("synchronous_standby_names", "").await?;
        let client = stage.client().await?;
        let end =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'seawall checks'";
        let ended: i64 = client.query_one(end, &[]).await?.get(0);
        ensure!(ended == 1, "{ended} connections for checks were ended");
        stage.proposer.wait_until("not protected", TOLD_WITHIN, |status| status["protected"] == false).await?;
        let relapse = stage.proposer.wait_until("protected", TOLD_WITHIN, |status| status["protected"] == true).await;
        ensure!(relapse.is_err(), "the settings of another server count");

        stage.postgres.set("synchronous_standby_names", "seawall").await?;
        forwarder.retarget(stage.postgres.port());
        forwarder.cut();
        // A refusal in between backs off for up to a minute.
        stage.proposer.wait_until("protected", Duration::from_secs(90), |status| status["protected"] == true).await?;
        stage.client().await?.batch_execute("CREATE TABLE t (a int)").await?;
        Ok(())
    });
}
