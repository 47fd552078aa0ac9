//! A PostgreSQL that already runs: can it be protected, and, where we are asked to, the setting that makes it wait for us.
//!
//! What `ALTER SYSTEM` had before is written down before it is changed, so that a clean stop takes the change back, even one that
//! follows a start after a kill. `ALTER SYSTEM` commits nothing that would wait, so it works while commits hang.

use super::folder::{Folder, FolderError};
use pg_conn::{ConnInfo, Connection, StartupExtra};
use pg_source::{Primary, Settings, StandbyNames};
use serde::{Deserialize, Serialize};

const SETTING: &str = "synchronous_standby_names";
const FILE: &str = "configured.json";

/// Why a primary was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum OwnPrimaryError {
    /// It cannot be attached to.
    #[error("the primary cannot be protected: {0}")]
    Source(#[from] pg_source::Error),
    /// A connection for the change fails.
    #[error("cannot connect to the primary to set {SETTING}: {0}")]
    Connect(#[from] pg_conn::ConnectError),
    /// The change is refused.
    #[error("the primary refused to set {SETTING} (only a superuser may): {0}")]
    Refused(#[from] pg_conn::Error),
    /// It cannot be written down what was there before.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl OwnPrimaryError {
    /// Whether another try cannot help.
    pub(crate) fn needs_operator(&self) -> bool {
        matches!(self, OwnPrimaryError::Source(error) if error.needs_operator())
    }
}

/// What stood in `postgresql.auto.conf` before us, and what we set.
#[derive(Serialize, Deserialize)]
struct Configured {
    before: Option<String>,
    ours: String,
}

/// Attaches, looks and leaves: role, version, wal_level, a walsender and a slot.
pub(crate) async fn check(info: &ConnInfo) -> Result<Settings, OwnPrimaryError> {
    let Primary { settings, .. } = pg_source::attach(&pg_source::Options::new(info.clone())).await?;
    if settings.slot.is_none() && settings.free_slots < 1 {
        return Err(pg_source::Error::NoFreeSlot.into());
    }
    Ok(settings)
}

/// The value that makes the primary wait for us, keeping whom it waits for already; `None` if it does already.
pub(crate) fn wanted(settings: &Settings) -> Option<StandbyNames> {
    let current = StandbyNames::parse(&settings.synchronous_standby_names).ok().flatten();
    match current {
        Some(names) if names.requires(pg_source::APPLICATION_NAME) => None,
        current => Some(StandbyNames::requiring(current.as_ref(), pg_source::APPLICATION_NAME)),
    }
}

/// Makes the primary wait for us. Returns the line that was set, `None` if nothing had to be.
pub(crate) async fn configure(info: &ConnInfo, folder: &Folder) -> Result<Option<String>, OwnPrimaryError> {
    let Some(names) = wanted(&check(info).await?) else { return Ok(None) };
    let mut connection = connect(info).await?;
    let rows = connection
        .simple_query(&format!(
            "SELECT setting FROM pg_catalog.pg_file_settings WHERE name = '{SETTING}' \
             AND sourcefile LIKE '%/postgresql.auto.conf' ORDER BY seqno DESC LIMIT 1"
        ))
        .await?;
    let ours = names.to_string();
    // A run that was killed may have left ours there: what it wrote down then is what was there before.
    let earlier: Option<Configured> = folder.read(FILE)?;
    let before = match earlier {
        Some(earlier) => earlier.before,
        None => rows.first().and_then(|row| row.text(0)).map(str::to_owned),
    };
    folder.write(FILE, &Configured { before, ours: ours.clone() })?;
    set(&mut connection, Some(&ours)).await?;
    Ok(Some(names.setting_line()))
}

/// Takes the change back, if there is one. Returns whether there was.
pub(crate) async fn take_back(info: &ConnInfo, folder: &Folder) -> Result<bool, OwnPrimaryError> {
    let Some(configured) = folder.read::<Configured>(FILE)? else { return Ok(false) };
    let mut connection = connect(info).await?;
    let rows = connection.simple_query(&format!("SHOW {SETTING}")).await?;
    // Somebody else's later change is not ours to undo.
    let still_ours = rows.first().and_then(|row| row.text(0)) == Some(configured.ours.as_str());
    if still_ours {
        set(&mut connection, configured.before.as_deref()).await?;
    }
    folder.remove(FILE)?;
    Ok(still_ours)
}

async fn connect(info: &ConnInfo) -> Result<Connection, OwnPrimaryError> {
    let extra = StartupExtra {
        application_name: Some("seawall up".to_owned()),
        // The change must not be lost to a session that is read-only by default, nor hang.
        options: Some("-c default_transaction_read_only=off -c statement_timeout=10s".to_owned()),
        dbname: info.dbname().is_none().then(|| "postgres".to_owned()),
        ..StartupExtra::default()
    };
    let primary = info.with("target_session_attrs", "primary").map_err(pg_source::Error::from)?;
    Ok(pg_conn::connect(&primary, &extra).await?)
}

async fn set(connection: &mut Connection, value: Option<&str>) -> Result<(), OwnPrimaryError> {
    let command = match value {
        Some(value) => format!("ALTER SYSTEM SET {SETTING} = {}", quoted(value)),
        None => format!("ALTER SYSTEM RESET {SETTING}"),
    };
    // Two queries: ALTER SYSTEM cannot run inside a transaction, which several commands in one query are.
    connection.simple_query(&command).await?;
    connection.simple_query("SELECT pg_catalog.pg_reload_conf()").await?;
    Ok(())
}

/// A string literal that means the same whatever standard_conforming_strings is.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('\'', "''");
    format!("E'{escaped}'")
}

#[cfg(test)]
#[path = "own_primary_test.rs"]
mod tests;
