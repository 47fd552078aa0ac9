//! What a primary says about itself over SQL: one query, one consistent answer.
//!
//! [`query`] makes the text, [`Settings::from_rows`] reads the rows. Every row has five text columns of which the first says what the
//! row is, so that one statement can carry settings, the slot and the connected standbys together. Names are qualified with
//! `pg_catalog`, since a role's search_path is not ours to trust.

use lsn::{Lsn, SystemId};

/// A replication slot as `pg_replication_slots` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// Oldest WAL it keeps; `None` if it reserves nothing, or no longer.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`; empty if it reserves nothing.
    pub wal_status: String,
    /// Backend that holds it.
    pub active_pid: Option<u32>,
    /// Whether it is a physical one.
    pub physical: bool,
}

impl Slot {
    /// Whether the WAL it stood for may be gone: marked lost, or without a position.
    pub fn is_lost(&self) -> bool {
        self.wal_status == "lost" || self.restart_lsn.is_none()
    }
}

/// A walsender as `pg_stat_replication` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sender {
    /// Its backend.
    pub pid: u32,
    /// The name its client gave.
    pub application_name: String,
    /// `startup`, `catchup`, `streaming`, `backup` or `stopping`; empty if we may not see it.
    pub state: String,
    /// What its client said is flushed.
    pub flush: Option<Lsn>,
}

impl Sender {
    /// Whether it sends WAL, or is about to.
    pub fn is_streaming(&self) -> bool {
        matches!(self.state.as_str(), "streaming" | "catchup" | "stopping")
    }
}

/// A role's or database's own value of `synchronous_commit`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleSetting {
    /// For whom: `role app`, `database shop`, `role app in database shop`.
    pub scope: String,
    /// The value.
    pub value: String,
}

/// A primary at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// `server_version_num`, such as 150013.
    pub version_num: u32,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Its system identifier.
    pub system_id: SystemId,
    /// When its postmaster started, microseconds since 1970-01-01 UTC; tells one run of a server from the next.
    pub started_at: i64,
    /// Its flush position; `None` on a standby.
    pub flush_lsn: Option<Lsn>,
    /// Whether our role sees other roles' walsenders.
    pub sees_all_senders: bool,
    /// How many replication slots can still be made.
    pub free_slots: i64,
    /// Bytes in a WAL segment.
    pub wal_segment_size: u64,
    /// `wal_level`.
    pub wal_level: String,
    /// `synchronous_standby_names` as it stands.
    pub synchronous_standby_names: String,
    /// `synchronous_commit`, server-wide unless `synchronous_commit_hidden`.
    pub synchronous_commit: String,
    /// Whether our own role, database or conninfo sets `synchronous_commit`, so that the server's value cannot be seen.
    pub synchronous_commit_hidden: bool,
    /// `fsync`.
    pub fsync: bool,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// `restart_after_crash`.
    pub restart_after_crash: bool,
    /// `max_slot_wal_keep_size` in MiB; -1 = without limit.
    pub max_slot_wal_keep_size: i64,
    /// `idle_replication_slot_timeout` (18 and later) in its unit; 0 = never.
    pub idle_replication_slot_timeout: i64,
    /// `synchronized_standby_slots` (17 and later).
    pub synchronized_standby_slots: Option<String>,
    /// Number of logical slots.
    pub logical_slots: u64,
    /// Our slot.
    pub slot: Option<Slot>,
    /// All walsenders.
    pub senders: Vec<Sender>,
    /// Who has a `synchronous_commit` of their own.
    pub role_settings: Vec<RoleSetting>,
}

/// An answer that lacks something or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the primary's answer about its settings has no readable {0}; is this a PostgreSQL server of version 13 to 18?"
)]
pub struct SettingsError(&'static str);

/// The query for [`Settings::from_rows`]. `slot` must be a slot name: letters, digits and underscores.
pub(crate) fn query(slot: &str) -> String {
    debug_assert!(slot.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    format!(
        "SELECT 'server', pg_catalog.current_setting('server_version_num'), pg_catalog.pg_is_in_recovery()::text, \
           (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), \
           (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint::text \
         UNION ALL SELECT 'position', CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
             ELSE pg_catalog.pg_current_wal_flush_lsn()::text END, \
           (SELECT pg_catalog.count(*)::text FROM pg_catalog.pg_replication_slots WHERE slot_type = 'logical'), \
           pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')::text, \
           (SELECT (pg_catalog.current_setting('max_replication_slots')::int - pg_catalog.count(*))::text FROM \
             pg_catalog.pg_replication_slots) \
         UNION ALL SELECT 'setting', name, setting, source, NULL FROM pg_catalog.pg_settings WHERE name IN ('wal_level', \
           'wal_segment_size', 'synchronous_standby_names', 'synchronous_commit', 'fsync', 'full_page_writes', 'restart_after_crash', \
           'max_slot_wal_keep_size', 'idle_replication_slot_timeout', 'synchronized_standby_slots') \
         UNION ALL SELECT 'slot', restart_lsn::text, wal_status, active_pid::text, slot_type FROM pg_catalog.pg_replication_slots \
           WHERE slot_name = '{slot}' \
         UNION ALL SELECT 'sender', pid::text, application_name, state, flush_lsn::text FROM pg_catalog.pg_stat_replication \
         UNION ALL SELECT 'role', r.rolname::text, d.datname::text, pg_catalog.split_part(c, '=', 2), NULL \
           FROM pg_catalog.pg_db_role_setting s CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c \
           LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
           WHERE c LIKE 'synchronous\\_commit=%'"
    )
}

impl Settings {
    /// Reads the rows of [`query`], in any order. Rows and settings of other names are passed over.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = [Option<&'a str>; 5]>) -> Result<Self, SettingsError> {
        let mut settings = Settings::default();
        let mut missing = vec!["server row", "position row"];
        let mut unread = vec![
            "wal_level",
            "wal_segment_size",
            "synchronous_standby_names",
            "synchronous_commit",
            "fsync",
            "full_page_writes",
            "restart_after_crash",
            "max_slot_wal_keep_size",
        ];
        for [kind, a, b, c, d] in rows {
            match kind.unwrap_or_default() {
                "server" => {
                    missing.retain(|row| *row != "server row");
                    settings.version_num = number(a, "server_version_num")?;
                    settings.in_recovery = flag(b, "recovery state")?;
                    // SQL has no unsigned numbers: half of all identifiers come as negative ones.
                    settings.system_id = SystemId(number::<i64>(c, "system identifier")?.cast_unsigned());
                    settings.started_at = number(d, "start time")?;
                }
                "position" => {
                    missing.retain(|row| *row != "position row");
                    settings.flush_lsn = position(a, "flush position")?;
                    settings.logical_slots = number(b, "number of logical slots")?;
                    settings.sees_all_senders = flag(c, "privilege")?;
                    settings.free_slots = number(d, "number of free slots")?;
                }
                "setting" => {
                    let name = a.unwrap_or_default();
                    unread.retain(|setting| *setting != name);
                    settings.read_setting(name, b.unwrap_or_default(), c.unwrap_or_default())?;
                }
                "slot" => {
                    settings.slot = Some(Slot {
                        restart_lsn: position(a, "restart_lsn")?,
                        wal_status: b.unwrap_or_default().to_owned(),
                        active_pid: c.map(|pid| number(Some(pid), "active_pid")).transpose()?,
                        physical: d == Some("physical"),
                    });
                }
                "sender" => settings.senders.push(Sender {
                    pid: number(a, "walsender's pid")?,
                    application_name: b.unwrap_or_default().to_owned(),
                    state: c.unwrap_or_default().to_owned(),
                    flush: position(d, "flush_lsn")?,
                }),
                "role" => settings.role_settings.push(RoleSetting {
                    scope: match (a, b) {
                        (Some(role), Some(database)) => format!("role {role} in database {database}"),
                        (Some(role), None) => format!("role {role}"),
                        (None, Some(database)) => format!("database {database}"),
                        (None, None) => "all roles".to_owned(),
                    },
                    value: c.unwrap_or_default().to_owned(),
                }),
                _ => {}
            }
        }
        match missing.first().or(unread.first()) {
            Some(absent) => Err(SettingsError(absent)),
            None => Ok(settings),
        }
    }

    fn read_setting(&mut self, name: &str, value: &str, source: &str) -> Result<(), SettingsError> {
        match name {
            "wal_level" => self.wal_level = value.to_owned(),
            "wal_segment_size" => self.wal_segment_size = number(Some(value), "wal_segment_size")?,
            "synchronous_standby_names" => self.synchronous_standby_names = value.to_owned(),
            "synchronous_commit" => {
                self.synchronous_commit = value.to_owned();
                self.synchronous_commit_hidden =
                    matches!(source, "client" | "session" | "user" | "database" | "database user" | "interactive");
            }
            "fsync" => self.fsync = value == "on",
            "full_page_writes" => self.full_page_writes = value == "on",
            "restart_after_crash" => self.restart_after_crash = value == "on",
            "max_slot_wal_keep_size" => self.max_slot_wal_keep_size = number(Some(value), "max_slot_wal_keep_size")?,
            "idle_replication_slot_timeout" => {
                self.idle_replication_slot_timeout = number(Some(value), "idle_replication_slot_timeout")?;
            }
            "synchronized_standby_slots" => self.synchronized_standby_slots = Some(value.to_owned()),
            _ => {}
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: Option<&str>, what: &'static str) -> Result<T, SettingsError> {
    text.and_then(|text| text.parse().ok()).ok_or(SettingsError(what))
}

fn flag(text: Option<&str>, what: &'static str) -> Result<bool, SettingsError> {
    number(text, what)
}

fn position(text: Option<&str>, what: &'static str) -> Result<Option<Lsn>, SettingsError> {
    text.map(|text| number(Some(text), what)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROWS: [[Option<&str>; 5]; 12] = [
        [Some("server"), Some("150013"), Some("false"), Some("-1"), Some("1700000000123456")],
        [Some("position"), Some("0/1500028"), Some("2"), Some("true"), Some("9")],
        [Some("setting"), Some("wal_segment_size"), Some("16777216"), Some("default"), None],
        [Some("setting"), Some("wal_level"), Some("replica"), Some("default"), None],
        [
            Some("setting"),
            Some("synchronous_standby_names"),
            Some("FIRST 1 (seawall)"),
            Some("configuration file"),
            None,
        ],
        [Some("setting"), Some("synchronous_commit"), Some("on"), Some("user"), None],
        [Some("setting"), Some("fsync"), Some("on"), Some("default"), None],
        [Some("setting"), Some("full_page_writes"), Some("off"), Some("default"), None],
        [Some("setting"), Some("restart_after_crash"), Some("on"), Some("default"), None],
        [Some("setting"), Some("max_slot_wal_keep_size"), Some("-1"), Some("default"), None],
        [Some("slot"), Some("0/1500000"), Some("reserved"), None, Some("physical")],
        [Some("sender"), Some("77"), None, None, None],
    ];

    #[test]
    fn rows_are_read() {
        let role = [Some("role"), Some("app"), None, Some("off"), None];
        let settings = Settings::from_rows(ROWS.into_iter().chain([role])).unwrap();
        assert_eq!((settings.version_num, settings.system_id), (150013, SystemId(u64::MAX)));
        assert_eq!((settings.flush_lsn, settings.logical_slots), (Some(Lsn(0x1500028)), 2));
        assert!(settings.fsync && !settings.full_page_writes && settings.synchronous_commit_hidden);
        assert_eq!(settings.slot.unwrap().active_pid, None);
        assert_eq!((settings.senders[0].pid, settings.senders[0].state.as_str()), (77, ""));
        assert_eq!(settings.role_settings[0].scope, "role app");
    }

    #[test]
    fn a_missing_setting_is_not_taken_for_a_good_one() {
        for left_out in 0..10 {
            let rows = ROWS.into_iter().enumerate().filter(|(index, _)| *index != left_out).map(|(_, row)| row);
            assert!(Settings::from_rows(rows).is_err(), "{left_out}");
        }
    }

    proptest! {
        #[test]
        fn any_rows_are_judged(row in 0usize..12, column in 1usize..5, text in proptest::option::of(".{0,20}")) {
            let mut rows = ROWS;
            rows[row][column] = text.as_deref();
            let _ = Settings::from_rows(rows);
        }
    }
}
