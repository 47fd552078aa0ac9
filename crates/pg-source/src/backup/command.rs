//! The words of BASE_BACKUP: one spelling up to 14, another since 15.

use super::error::BackupError;
use super::options::BackupOptions;

/// The command that takes a backup as asked from a server of this `server_version_num`.
pub(super) fn base_backup(options: &BackupOptions, version_num: u32) -> Result<String, BackupError> {
    let label = format!("LABEL '{}'", options.label.replace('\'', "''"));
    let rate = options.max_rate.map(|rate| format!("MAX_RATE {rate}"));
    let wal = options.include_wal.then(|| "WAL".to_owned());
    let sums = format!("MANIFEST_CHECKSUMS '{}'", options.manifest_checksums.name());
    // We wait for the archive ourselves, so the server need not.
    let words = |checkpoint: Option<&str>, wait: &str| {
        let fixed = ["PROGRESS".to_owned(), "TABLESPACE_MAP".to_owned(), "MANIFEST 'yes'".to_owned(), wait.to_owned()];
        let optional = [checkpoint.map(str::to_owned), wal.clone(), rate.clone()];
        let all = std::iter::once(label.clone()).chain(optional.into_iter().flatten()).chain(fixed);
        all.chain([sums.clone()]).collect::<Vec<_>>()
    };
    match version_num {
        // Its grammar takes the words in any order.
        130_000..150_000 => {
            Ok(format!("BASE_BACKUP {}", words(options.fast_checkpoint.then_some("FAST"), "NOWAIT").join(" ")))
        }
        150_000..190_000 => {
            let checkpoint = if options.fast_checkpoint { "CHECKPOINT 'fast'" } else { "CHECKPOINT 'spread'" };
            Ok(format!("BASE_BACKUP ({})", words(Some(checkpoint), "WAIT 0").join(", ")))
        }
        other => Err(crate::Error::Version(other).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings() {
        let mut options = BackupOptions::new("host=h".parse().unwrap());
        options.label = "it's".into();
        assert_eq!(
            base_backup(&options, 140_010).unwrap(),
            "BASE_BACKUP LABEL 'it''s' FAST PROGRESS TABLESPACE_MAP MANIFEST 'yes' NOWAIT MANIFEST_CHECKSUMS 'CRC32C'"
        );
        options.fast_checkpoint = false;
        options.max_rate = Some(1024);
        options.include_wal = true;
        assert_eq!(
            base_backup(&options, 150_000).unwrap(),
            "BASE_BACKUP (LABEL 'it''s', CHECKPOINT 'spread', WAL, MAX_RATE 1024, PROGRESS, TABLESPACE_MAP, \
             MANIFEST 'yes', WAIT 0, MANIFEST_CHECKSUMS 'CRC32C')"
        );
        assert!(base_backup(&options, 120_000).is_err() && base_backup(&options, 190_000).is_err());
    }
}
