//! What a proposer does for the archive beside its snapshots, on a schedule: retention and validation.

use crate::Interval;
use crate::error::Error;
use crate::section::Section;
use std::time::Duration;

/// What may be said about it: flags, and keys of `[proposer]` (`retain`, `sole_uploader`, `validate_interval`).
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct UpkeepFlags {
    /// Keep any moment of the last so long restorable, and let go of what is older, several times a day; without it nothing goes
    #[arg(long, value_name = "TIME")]
    pub retain: Option<Interval>,
    /// Nobody else deletes from the archive: needed with --retain where the store cannot make sure of it
    #[arg(long)]
    pub sole_uploader: bool,
    /// How often to restore the newest snapshot to a scratch place and prove it; without it never
    #[arg(long, value_name = "TIME")]
    pub validate_interval: Option<Interval>,
}

/// The schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpkeepOptions {
    /// The archive.
    pub url: String,
    /// The window that stays restorable; `None`: nothing is deleted.
    pub retain: Option<Interval>,
    /// Whether deletion may rely on nobody else deleting.
    pub sole_uploader: bool,
    /// How often to validate; `None`: never.
    pub validate_interval: Option<Duration>,
}

impl UpkeepFlags {
    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<UpkeepFlags, Error> {
        Ok(UpkeepFlags {
            retain: section.take("retain")?,
            sole_uploader: section.take("sole_uploader")?.unwrap_or_default(),
            validate_interval: section.take("validate_interval")?,
        })
    }

    /// Lays flags over keys; `archive` is where. `None`: there is nothing to do.
    pub(crate) fn resolve(self, below: UpkeepFlags, archive: Option<String>) -> Result<Option<UpkeepOptions>, Error> {
        let given = |interval: &Interval| !interval.0.is_zero();
        let retain = self.retain.or(below.retain).filter(given);
        let validate_interval = self.validate_interval.or(below.validate_interval).filter(given).map(|each| each.0);
        if retain.is_none() && validate_interval.is_none() {
            return Ok(None);
        }
        let url = archive.ok_or(Error::Missing {
            what: "the archive for retention and validation",
            flag: "--archive",
            key: "archive under [[cluster]]",
        })?;
        let sole_uploader = self.sole_uploader || below.sole_uploader;
        Ok(Some(UpkeepOptions { url, retain, sole_uploader, validate_interval }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_needs_an_archive_and_flags_win() {
        let flags = |retain: Option<&str>, validate: Option<&str>| UpkeepFlags {
            retain: retain.map(|text| text.parse().unwrap()),
            sole_uploader: false,
            validate_interval: validate.map(|text| text.parse().unwrap()),
        };
        let archive = || Some("/a".to_owned());
        assert_eq!(flags(None, None).resolve(flags(None, None), archive()).unwrap(), None);
        assert_eq!(flags(Some("0"), None).resolve(flags(Some("7d"), None), archive()).unwrap(), None, "0 is never");
        assert!(flags(Some("7d"), None).resolve(flags(None, None), None).is_err());
        let below = UpkeepFlags { sole_uploader: true, ..flags(Some("7d"), Some("1d")) };
        let options = flags(Some("36h"), None).resolve(below, archive()).unwrap().unwrap();
        assert_eq!(options.retain, Some("36h".parse().unwrap()));
        assert_eq!(options.validate_interval, Some(Duration::from_secs(86_400)));
        assert!(options.sole_uploader);
    }
}
