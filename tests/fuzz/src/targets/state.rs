//! What a safekeeper reads back from its own disk.

use wal_storage::ControlFile;

pub(super) fn control_file(data: &[u8]) {
    if let Ok(body) = ControlFile::decode(data) {
        let written = ControlFile::encode(&body).map(|bytes| ControlFile::decode(&bytes).ok());
        assert_eq!(written.ok().flatten(), Some(body));
    }
}

/// A record that is accepted is complete: written again it reads as the same.
pub(super) fn control_record(data: &[u8]) {
    if let Ok(state) = keeper::control::decode(data) {
        assert_eq!(keeper::control::decode(&keeper::control::encode(&state)).ok().as_ref(), Some(&state));
    }
}
