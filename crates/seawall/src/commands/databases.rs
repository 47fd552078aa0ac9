//! `seawall databases`: what a configuration replicates, and where to.

use super::{env, failed, print};
use operate::process::Exit;
use operate::restore::table;
use operate::sqlite::run;
use serde_json::json;

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall databases --config /etc/seawall.toml
  seawall databases --config /etc/seawall.toml --json";

pub(crate) fn databases(flags: &config::DatabasesFlags) -> Exit {
    let config = match config::Config::load(&flags.config, &env) {
        Ok(config) => config,
        Err(error) => return failed(&error, Exit::Usage),
    };
    let rows = match run::databases(&config.sqlites) {
        Ok(rows) => rows,
        Err(error) => return failed(&error, error.exit()),
    };
    match flags.json {
        true => print(&json!(rows).to_string()),
        false => {
            let lines = rows.into_iter().flat_map(|row| {
                let path = row.path;
                row.replicas.into_iter().map(move |(name, url)| vec![path.clone(), name, url])
            });
            print(&table(&["database", "replica", "url"], lines));
        }
    }
    Exit::Done
}
