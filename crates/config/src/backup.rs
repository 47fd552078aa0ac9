//! The flags of `seawall backup` and `seawall retain`, and a proposer's about snapshots.

use crate::error::Error;
use crate::file::ClusterOptions;
use crate::restore::ReplicaFlags;
use crate::section::Section;
use crate::sqlite::Interval;
use crate::values::Conninfo;
use std::time::Duration;

/// The flags of `seawall backup`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct BackupFlags {
    /// The server, a primary or a standby, as libpq takes it; its role needs REPLICATION
    #[arg(long, value_name = "CONNINFO")]
    pub primary: Conninfo,
    /// The archive: s3://bucket/path, gs://…, az://…, or a directory
    #[arg(long, value_name = "URL")]
    pub replica: String,
    /// The era, if not the newest one; an archive without any begins with solo-1
    #[arg(long, value_name = "ERA")]
    pub era: Option<String>,
    /// The generation, where the archive holds several of the server's TLI that cannot be told apart
    #[arg(long, value_name = "GENERATION")]
    pub generation: Option<String>,
    /// Encrypt for this age recipient (age1…); may be given several times
    #[arg(long, value_name = "RECIPIENT")]
    pub recipient: Vec<String>,
    /// What the backup is called
    #[arg(long, value_name = "TEXT", default_value = "seawall")]
    pub label: String,
    /// Read at most so many KiB per second
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(32..=1_048_576))]
    pub max_rate: Option<u32>,
    /// Begin with an ordinary checkpoint, spread over minutes, to spare the server's disks
    #[arg(long)]
    pub spread_checkpoint: bool,
    /// Also archive the WAL the backup needs, where nothing else archives this server's WAL
    #[arg(long)]
    pub include_wal: bool,
    /// Keep no WAL on the server by a temporary slot; only where something else keeps it until it is archived
    #[arg(long)]
    pub no_slot: bool,
    /// How long to wait until the WAL the backup needs is archived
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub wal_timeout: Interval,
    /// Keep the backup though the server reports pages with wrong checksums; it names them and is not relied on
    #[arg(long)]
    pub accept_damaged_pages: bool,
    /// Chunks compressed and stored at once
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub parallelism: u16,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// The flags of `seawall retain`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct RetainFlags {
    /// The archive: s3://bucket/path, gs://…, az://…, or a directory
    #[arg(value_name = "REPLICA")]
    pub replica: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would take it for the help of the command")]
    pub source: ReplicaFlags,
    /// Any moment of the last so long stays restorable; what is older goes (7d, 36h)
    #[arg(long, value_name = "TIME")]
    pub window: Interval,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Nobody else deletes from this replica: needed where the store cannot make sure of it
    #[arg(long)]
    pub sole_uploader: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What may be said about a proposer's snapshots: flags, and keys of `[proposer]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct SnapshotFlags {
    /// Take snapshots of the primary into this archive: the one that the safekeepers have
    #[arg(long, value_name = "URL")]
    pub archive: Option<String>,
    /// How often; without it none is taken
    #[arg(long, value_name = "TIME")]
    pub snapshot_interval: Option<Interval>,
    /// Encrypt them for this age recipient (age1…); may be given several times
    #[arg(long, value_name = "RECIPIENT")]
    pub archive_recipient: Vec<String>,
}

/// A proposer's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// The archive.
    pub url: String,
    /// How often.
    pub interval: Duration,
    /// Whom to encrypt for; nobody: plain.
    pub recipients: Vec<String>,
}

impl SnapshotFlags {
    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<SnapshotFlags, Error> {
        Ok(SnapshotFlags {
            archive: section.take("archive")?,
            snapshot_interval: section.take("snapshot_interval")?,
            archive_recipient: section.take_list("archive_recipients")?,
        })
    }

    /// `None`: none are taken.
    pub(crate) fn resolve(
        self,
        below: SnapshotFlags,
        cluster: Option<&ClusterOptions>,
    ) -> Result<Option<SnapshotOptions>, Error> {
        let Some(interval) =
            self.snapshot_interval.or(below.snapshot_interval).filter(|interval| !interval.0.is_zero())
        else {
            return Ok(None);
        };
        let url = self.archive.or(below.archive).or_else(|| cluster?.archive.clone());
        let url = url.ok_or(Error::Missing {
            what: "the archive for snapshots",
            flag: "--archive",
            key: "archive under [[cluster]]",
        })?;
        let recipients =
            if self.archive_recipient.is_empty() { below.archive_recipient } else { self.archive_recipient };
        Ok(Some(SnapshotOptions { url, interval: interval.0, recipients }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_need_an_interval_and_an_archive() {
        let flags = |archive: Option<&str>, interval: Option<&str>| SnapshotFlags {
            archive: archive.map(str::to_owned),
            snapshot_interval: interval.map(|text| text.parse().unwrap()),
            archive_recipient: vec![],
        };
        assert_eq!(flags(Some("/a"), None).resolve(flags(None, None), None).unwrap(), None);
        assert_eq!(flags(Some("/a"), Some("0")).resolve(flags(None, None), None).unwrap(), None);
        assert!(flags(None, Some("1d")).resolve(flags(None, None), None).is_err());
        let options = flags(None, Some("1d")).resolve(flags(Some("/b"), Some("2d")), None).unwrap().unwrap();
        assert_eq!((options.url.as_str(), options.interval), ("/b", Duration::from_secs(86_400)));
    }
}
