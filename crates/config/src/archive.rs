//! Where a safekeeper archives WAL.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Error;
use crate::file::Config;
use crate::section::Section;
use crate::sqlite::Interval;

/// As often as committed WAL is stored unless said otherwise.
const SYNC_INTERVAL_DEFAULT: Interval = Interval(Duration::from_secs(1));

/// What may be said about the archive: flags of a safekeeper, and keys of `[safekeeper]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ArchiveFlags {
    /// Archive committed WAL here: s3://bucket/path, gs://…, az://…, or a directory. Give it to every safekeeper: one of them
    /// stores, and another takes over when that one dies. Keys come from the environment (AWS_ACCESS_KEY_ID…)
    #[arg(long, value_name = "URL")]
    pub archive: Option<String>,
    /// How long committed WAL may wait before it is archived [default: 1s]
    #[arg(long, value_name = "TIME")]
    pub archive_sync_interval: Option<Interval>,
    /// Encrypt the archive for this age recipient (age1…); may be given several times. Restoring takes an identity
    #[arg(long, value_name = "RECIPIENT")]
    pub archive_recipient: Vec<String>,
}

/// Where a safekeeper archives WAL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// For clusters that have no URL of their own.
    pub url: Option<String>,
    /// The URLs of `[[cluster]]` sections by the clusters' names.
    pub urls: BTreeMap<String, String>,
    /// How long committed WAL may wait.
    pub sync_interval: Duration,
    /// Whom to encrypt for; nobody: plain.
    pub recipients: Vec<String>,
}

impl ArchiveFlags {
    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<ArchiveFlags, Error> {
        Ok(ArchiveFlags {
            archive: section.take("archive")?,
            archive_sync_interval: section.take("archive_sync_interval")?,
            archive_recipient: section.take_list("archive_recipients")?,
        })
    }

    pub(crate) fn resolve(self, below: &ArchiveFlags, config: &Config) -> ArchiveOptions {
        let of_cluster = |cluster: &crate::ClusterOptions| Some((cluster.name.to_string(), cluster.archive.clone()?));
        let interval = self.archive_sync_interval.or(below.archive_sync_interval).unwrap_or(SYNC_INTERVAL_DEFAULT);
        ArchiveOptions {
            // A flag is for all clusters, whatever the file says.
            urls: if self.archive.is_some() {
                BTreeMap::new()
            } else {
                config.clusters.iter().filter_map(of_cluster).collect()
            },
            url: self.archive.or_else(|| below.archive.clone()),
            sync_interval: interval.0,
            recipients: match self.archive_recipient.is_empty() {
                true => below.archive_recipient.clone(),
                false => self.archive_recipient,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_gives_each_cluster_its_archive_and_a_flag_wins() {
        let text = "[safekeeper]\narchive = \"/a\"\narchive_sync_interval = \"2s\"\narchive_recipients = [\"age1x\"]\n\
            [[cluster]]\nname = \"orders\"\narchive = \"s3://b/${PLACE}\"\n[[cluster]]\nname = \"plain\"\n";
        let config = Config::parse("f", text, &|name| (name == "PLACE").then(|| "wal".to_owned())).unwrap();
        let below = config.safekeeper.clone().unwrap_or_default().archive;
        let options = ArchiveFlags::default().resolve(&below, &config);
        assert_eq!(options.url.as_deref(), Some("/a"));
        assert_eq!(options.urls, BTreeMap::from([("orders".to_owned(), "s3://b/wal".to_owned())]));
        assert_eq!((options.sync_interval, options.recipients.len()), (Duration::from_secs(2), 1));
        let flags = ArchiveFlags { archive: Some("/b".to_owned()), ..ArchiveFlags::default() };
        let options = flags.resolve(&below, &config);
        assert_eq!((options.url.as_deref(), options.urls.len()), (Some("/b"), 0));
        assert_eq!(
            ArchiveFlags::default().resolve(&ArchiveFlags::default(), &Config::default()).sync_interval,
            Duration::from_secs(1)
        );
    }
}
