//! `seawall status` and `--help`: whoever asks gets an answer, a reason and an exit code.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_harness::{Bin, Finished, Folder, scenario, wait_for};
use scenarios::{CLUSTER, SOON, Stage};
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(120);

async fn status(folder: &Folder, args: &[&str]) -> Result<Finished> {
    Bin::seawall()?.run(folder, "status", ["status"].iter().chain(args).copied(), SOON).await
}

/// Goal: with nothing there nobody is told that all is well. Method: no `up`, nobody listening, wrong files and flags: a sentence each,
/// and an exit code.
#[test]
fn nothing_runs() {
    scenario("status_none", WITHIN, async |folder| {
        let told = status(&folder, &[]).await?.expect_code(1)?;
        ensure!(told.stderr.contains("no seawall up is running") && told.stdout.is_empty(), "it says {told:?}");
        let told = status(&folder, &["--http", "127.0.0.1:1"]).await?.expect_code(1)?;
        ensure!(told.stdout.contains("UNPROTECTED") && told.stdout.contains("127.0.0.1:1"), "it says {told:?}");
        let told = status(&folder, &["--http", "http://127.0.0.1:1/", "--json"]).await?.expect_code(1)?;
        let report: Value = serde_json::from_str(&told.stdout)?;
        ensure!(report["protected"] == false && report["problems"][0].is_string(), "it says {report}");

        let file = folder.path().join("broken.toml");
        fs::write(&file, "[safekeeper]\nid = 1\nshoe_size = 43\n")?;
        let told = status(&folder, &["--config", &file.display().to_string()]).await?.expect_code(2)?;
        ensure!(told.stderr.contains("shoe_size") && told.stderr.contains("broken.toml"), "it says {told:?}");
        status(&folder, &["--config", "/nowhere/seawall.toml"]).await?.expect_code(2)?;
        status(&folder, &["--http", "ftp://x"]).await?.expect_code(2)?;
        status(&folder, &["--nonsense"]).await?.expect_code(2)?;
        let up = folder.sub("data")?.join("up.json");
        fs::write(&up, "{ \"primary\": 3 }")?;
        let told = status(&folder, &["--data-dir", &folder.path().join("data").display().to_string()]).await?;
        ensure!(told.expect_code(1)?.stderr.contains("up.json"), "a broken up.json is not named");
        Ok(())
    });
}

/// Goal: parts are asked wherever they are, and only a proposer's word makes protected. Method: URLs, a file, `--watch`; without the
/// proposer, without a safekeeper.
#[test]
fn parts_are_asked() {
    scenario("status", WITHIN, async |folder| {
        let mut stage = Stage::set(&folder).await?;
        stage.proposer.wait_until("protected", SOON, |status| status["protected"] == true).await?;
        let proposer = format!("http://{}/", stage.proposer.http());
        let safekeepers: Vec<String> = stage.quorum.nodes().iter().map(|node| node.http().to_string()).collect();
        let mut all = vec!["--http", &proposer];
        all.extend(safekeepers.iter().flat_map(|http| ["--http", http]));
        let told = status(&folder, &all).await?.expect_code(0)?;
        ensure!(told.stdout.starts_with(&format!("{CLUSTER}  PROTECTED\n")), "it says {told:?}");
        let told = status(&folder, &["--http", &safekeepers[0]]).await?.expect_code(1)?;
        ensure!(told.stdout.contains("no proposer was asked"), "it says {told:?}");

        let file = folder.path().join("seawall.toml");
        let listen = |section: &str, http: &str| format!("[{section}]\nlisten_http = \"{http}\"\n");
        let text = listen("proposer", &stage.proposer.http().to_string()) + &listen("safekeeper", &safekeepers[1]);
        fs::write(&file, text)?;
        let file = file.display().to_string();
        let told = status(&folder, &["--config", &file, "--json"]).await?.expect_code(0)?;
        let report: Value = serde_json::from_str(&told.stdout)?;
        ensure!(report["clusters"][0]["safekeepers"].as_array().map(Vec::len) == Some(3), "it says {report}");

        let args = ["status", "--watch", "--http", &proposer];
        let mut watch = Bin::seawall()?.spawn(&folder, "watch", args)?;
        let seen = |text: &str| text.matches("main  PROTECTED").count();
        wait_for("two reports", SOON, async || Ok((seen(&watch.output()?) >= 2).then_some(()))).await?;

        stage.quorum.node(3)?.kill()?;
        wait_for("the lost safekeeper in the status", SOON, async || {
            let told = status(&folder, &all).await?.expect_code(0)?;
            ensure!(told.stdout.contains("no answer: ") && told.stdout.contains("offline"), "{}", told.stdout);
            Ok(Some(()))
        })
        .await?;
        stage.quorum.node(2)?.kill()?;
        let told = wait_for("UNPROTECTED, or a reason", SOON, async || {
            let told = status(&folder, &all).await?;
            Ok((told.stdout.matches("offline").count() >= 2).then_some(told))
        })
        .await?;
        ensure!(told.stdout.contains("no answer: "), "two of three are gone: {}", told.stdout);

        stage.proposer.kill()?;
        watch.wait_for_output("no answer: ", SOON).await?;
        ensure!(watch.is_running()?, "a watch ended by itself");
        status(&folder, &all).await?.expect_code(1)?;
        watch.terminate(SOON).await?;
        Ok(())
    });
}

/// Goal: every subcommand shows how it is used. Method: `--help` of all the help lists.
#[test]
fn help_shows_examples() {
    scenario("help", WITHIN, async |folder| {
        let bin = Bin::seawall()?;
        let help = bin.run(&folder, "help", ["--help"], SOON).await?.expect_code(0)?.stdout;
        let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
        let listed = listed.take_while(|line| !line.is_empty());
        // What is indented further goes on with the line before.
        let name = |line: &'_ str| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')).map(str::to_owned);
        let names: Vec<String> =
            listed.filter_map(name).map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect();
        ensure!(
            ["up", "status", "init"].iter().all(|name| names.iter().any(|listed| listed == name)),
            "the help lists {names:?}"
        );
        for name in names.into_iter().filter(|name| name != "help") {
            let help = bin.run(&folder, "help", [&name, "--help"], SOON).await?.expect_code(0)?.stdout;
            let example = help.split_once("Example").with_context(|| format!("{name} --help has no example"))?.1;
            ensure!(example.contains(&format!("seawall {name}")), "{name} --help has the example {example:?}");
        }
        Ok(())
    });
}
