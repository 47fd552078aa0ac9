//! `seawall fence`, `pre-promote`, `adopt`, `pre-start`, and the proposer's `--sync`.

use super::{env, failed, print};
use config::{FailoverFlags, FailoverOptions};
use operate::failover::{self as act, PreStarted};
use operate::process::{self, Exit};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) const FENCE_EXAMPLES: &str = "\
Examples:
  seawall fence --safekeepers sk1:5454,sk2:5454,sk3:5454
  seawall fence --lift --safekeepers sk1:5454,sk2:5454,sk3:5454";
pub(crate) const PRE_PROMOTE_EXAMPLES: &str = "\
Example (Patroni's pre_promote):
  seawall pre-promote --standby 'host=/run/postgresql user=postgres' --safekeepers sk1:5454,sk2:5454,sk3:5454 \\
    --token-file /run/seawall/fence-token";
pub(crate) const ADOPT_EXAMPLES: &str = "\
Example:
  seawall adopt --primary 'host=db1 user=seawall' --safekeepers sk1:5454,sk2:5454,sk3:5454";
pub(crate) const PRE_START_EXAMPLES: &str = "\
Example (ExecStartPre of the PostgreSQL unit):
  seawall pre-start --pgdata /var/lib/postgresql/15/main --safekeepers sk1:5454,sk2:5454,sk3:5454";

pub(crate) const REBASE_EXAMPLES: &str = "\
Example:
  seawall rebase --cluster orders --primary 'host=db1 user=seawall' --safekeepers sk1:5454,sk2:5454,sk3:5454";
pub(crate) const RELEASE_EXAMPLES: &str = "\
Examples (the role must be allowed to ALTER SYSTEM):
  seawall release --primary 'host=db1 user=postgres' --safekeepers sk1:5454,sk2:5454,sk3:5454
  seawall release --end --primary 'host=db1 user=postgres' --safekeepers sk1:5454,sk2:5454,sk3:5454";

/// What was reached, as text and as JSON.
type Said = (String, Value);

fn run<F: Future<Output = Result<Said, act::Error>>>(
    flags: FailoverFlags,
    work: impl FnOnce(FailoverOptions) -> F,
) -> Exit {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    process::log_to_stderr(config::LogFormat::default());
    let as_json = options.json;
    match process::runtime().map(|runtime| runtime.block_on(work(options))) {
        Ok(Ok((text, value))) => {
            print(&if as_json { value.to_string() } else { text });
            Exit::Done
        }
        Ok(Err(error)) => failed(&error, error.exit()),
        Err(error) => failed(&error, Exit::Failed),
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

pub(crate) fn fence(flags: config::FenceFlags) -> Exit {
    if flags.lift {
        return run(flags.quorum, async |options| {
            let lifted = act::lift(&options).await?;
            let lines: Vec<String> =
                lifted.iter().map(|(address, fence)| format!("{address}: lifted {fence}")).collect();
            let text = if lines.is_empty() { "no fence stood".to_owned() } else { lines.join("\n") };
            Ok((text, json!({"lifted": lifted})))
        });
    }
    let (expires, token_file) = (flags.seconds.map(seconds), flags.token_file);
    run(flags.quorum, async |options| {
        let (led, token) = act::fence(&options, expires, token_file.as_deref()).await?;
        let until = expires.map_or_else(|| "until it is lifted".to_owned(), |time| format!("for {} s", time.as_secs()));
        let text = format!("cluster {} is fenced at {} {until}\ntoken: {token}", led.cluster, led.commit);
        Ok((
            text,
            json!({
                "cluster": led.cluster, "lsn": led.commit.to_string(), "epoch": led.term.0, "path": led.path.to_string(),
                "seconds": expires.map(|time| time.as_secs()), "token": token.to_string(),
            }),
        ))
    })
}

pub(crate) fn pre_promote(flags: config::PrePromoteFlags) -> Exit {
    let (expires, feed) = (seconds(flags.fence_seconds()), !flags.no_feed);
    let (standby, token_file) = (flags.standby, flags.token_file);
    run(flags.quorum, async |options| {
        let (led, token) = act::pre_promote(&options, standby.as_str(), feed, expires, token_file.as_deref()).await?;
        let text = format!(
            "the standby has everything up to {}; promote it within {} s\ntoken: {token}",
            led.commit,
            expires.as_secs()
        );
        Ok((
            text,
            json!({
                "cluster": led.cluster, "lsn": led.commit.to_string(), "epoch": led.term.0, "path": led.path.to_string(),
                "seconds": expires.as_secs(), "token": token.to_string(),
            }),
        ))
    })
}

pub(crate) fn adopt(flags: config::AdoptFlags) -> Exit {
    let primary = flags.primary;
    run(flags.quorum, async |options| {
        let led = act::adopt(&options, primary.as_ref().map(config::Conninfo::as_str)).await?;
        let text = format!(
            "the primary is adopted: its WAL is the quorum's, committed up to {}; start its proposer",
            led.commit
        );
        Ok((text, json!({"cluster": led.cluster, "lsn": led.commit.to_string(), "term": led.term.0})))
    })
}

pub(crate) fn pre_start(flags: config::PreStartFlags) -> Exit {
    let (data_dir, takeover) = (flags.pgdata, flags.takeover);
    run(flags.quorum, async |options| match act::pre_start(&options, &data_dir, takeover).await? {
        PreStarted::Standby => Ok(("this is a standby: nothing to bring".to_owned(), json!({"done": "standby"}))),
        PreStarted::Fresh => {
            Ok(("no proposer was attached to this server yet: nothing to bring".to_owned(), json!({"done": "fresh"})))
        }
        PreStarted::Brought(led) => {
            let text = format!("the quorum has everything the server will show, up to {}", led.commit);
            Ok((
                text,
                json!({"done": "brought", "cluster": led.cluster, "lsn": led.commit.to_string(), "term": led.term.0}),
            ))
        }
    })
}

pub(crate) fn rebase(flags: config::RebaseFlags) -> Exit {
    let (primary, abandon) = (flags.primary, flags.abandon);
    run(flags.quorum, async |options| {
        let era = act::rebase(&options, primary.as_ref(), abandon).await?;
        let ended = era.ended.as_deref().unwrap_or("nothing");
        let text = format!(
            "cluster {} begins a new era; the one before is {ended} now, and read-only: start the proposer anew, and take a backup",
            era.cluster
        );
        let (tenant, timeline) = (era.id.tenant_hex(), era.id.timeline_hex());
        let ended = era.ended;
        Ok((text, json!({"cluster": era.cluster, "ended": ended, "tenant_id": tenant, "timeline_id": timeline})))
    })
}

pub(crate) fn release(flags: config::ReleaseFlags) -> Exit {
    let (primary, end) = (flags.primary, flags.end);
    run(flags.quorum, async |options| {
        let primary = primary.as_ref().map(config::Conninfo::as_str);
        let names = match end {
            true => act::protect_again(&options, primary).await?,
            false => act::release(&options, primary).await?,
        };
        let text = match (end, names.as_str()) {
            (true, names) => format!("commits wait for the quorum again: synchronous_standby_names is '{names}'"),
            (false, "") => "commits waited for nobody already".to_owned(),
            (false, names) => format!(
                "UNPROTECTED: commits return without the quorum from now on (synchronous_standby_names was '{names}'); \
                 the way back is seawall release --end"
            ),
        };
        Ok((text, json!({"released": !end, "synchronous_standby_names": names})))
    })
}

pub(crate) fn sync(flags: config::ProposerFlags) -> Exit {
    match flags.resolve_sync(&env) {
        Ok(options) => process::sync(&options),
        Err(error) => failed(&error, Exit::Usage),
    }
}
