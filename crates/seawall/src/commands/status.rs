//! `seawall status`: protected or not, and why.

use super::{env, failed, print};
use operate::process::{self, Exit};
use operate::status as ask;
use serde_json::json;
use std::time::Duration;

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall status
  seawall status --watch --http http://127.0.0.1:7676/
  seawall status --config /etc/seawall.toml --json";

/// How often `status --watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

pub(crate) fn status(flags: config::StatusFlags) -> Exit {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    let runtime = match process::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, Exit::Failed),
    };
    loop {
        let report = match runtime.block_on(ask::status(&options.source)) {
            Ok(report) => report,
            Err(error) => return failed(&error, Exit::Failed),
        };
        match options.json {
            true => print(&json!(report).to_string()),
            false => print(report.to_string().trim_end()),
        }
        if !options.watch {
            return if report.protected { Exit::Done } else { Exit::Failed };
        }
        runtime.block_on(async { tokio::time::sleep(WATCH_EVERY).await });
    }
}
