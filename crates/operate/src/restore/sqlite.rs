//! `seawall restore` for the replica of a SQLite database.

use super::progress::{Display, size};
use super::run::{Outcome, RunError, SqliteReport};
use config::RestoreFlags;
use replica_client::Replica;
use restore::postgres::target::Target as Moments;
use restore::sqlite::{self, IntegrityCheck, Options, Progress, Target};
use std::sync::Arc;

/// Restores a database file.
pub(super) async fn sqlite(flags: &RestoreFlags, replica: &Replica, say: &dyn Fn(&str)) -> Result<Outcome, RunError> {
    let options = options(flags)?;
    let plan = match sqlite::plan(replica, &options).await {
        Err(error) if error.is_no_replica() && flags.if_replica_exists => {
            return Ok(Outcome::Nothing { reason: error.to_string() });
        }
        plan => plan?,
    };
    let report = SqliteReport {
        generation: plan.generation.to_string(),
        snapshot: format!("{:08x}", plan.snapshot.at),
        pieces: plan.pieces.len(),
        stored: plan.stored_bytes(),
        end_index: format!("{:08x}", plan.end.index),
        stored_at: plan.end.stored_at,
    };
    let Some(output) = flags.output.as_ref().filter(|_| !flags.dry_run) else {
        return Ok(Outcome::PlannedSqlite { plan: report });
    };
    if !flags.json {
        say(&report.text());
    }
    let progress = Arc::new(Progress::default());
    let counted = Arc::clone(&progress);
    let display = Display::start("fetched", report.stored, move || counted.stored());
    let restored = sqlite::restore(replica, &plan, output, &options, &progress).await?;
    drop(display);
    Ok(Outcome::RestoredSqlite { plan: report, file: output.clone(), bytes: restored.bytes })
}

fn options(flags: &RestoreFlags) -> Result<Options, RunError> {
    let usage = |text: String| RunError::Usage(text);
    let target = match (&flags.to_time, &flags.index) {
        (Some(text), _) => Target::Time(Moments::parse_time(text).map_err(usage)?),
        (_, Some(hex)) => {
            let index = u64::from_str_radix(hex, 16)
                .map_err(|_| usage(format!("{hex:?} is no WAL index: hexadecimal digits are")))?;
            Target::Index(index)
        }
        _ if flags.to_lsn.is_some() || flags.to_name.is_some() || flags.to_xid.is_some() => {
            return Err(usage(
                "this is a replica of a SQLite database: it is restored --to-time or to an --index".to_owned(),
            ));
        }
        _ => Target::Latest,
    };
    let generation = flags
        .generation
        .as_ref()
        .map(|text| text.parse().map_err(|_| usage(format!("{text:?} is no generation: 16 hexadecimal digits are"))));
    let integrity = match flags.integrity_check.as_str() {
        "quick" => IntegrityCheck::Quick,
        "full" => IntegrityCheck::Full,
        _ => IntegrityCheck::None,
    };
    Ok(Options { generation: generation.transpose()?, target, parallelism: usize::from(flags.parallelism), integrity })
}

impl SqliteReport {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "snapshot  {} of generation {}\nWAL       {} objects up to index {}, stored at {}\nsize      {} to fetch",
            self.snapshot,
            self.generation,
            self.pieces,
            self.end_index,
            self.stored_at,
            size(self.stored)
        )
    }
}
