//! The local segments as the archive reads them.

use ::archive::wal::WalBytes;
use bytes::{Bytes, BytesMut};
use lsn::Lsn;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use wal_storage::WalReader;

/// Committed WAL from this safekeeper's files. Committed bytes never change, so a cut beside them does no harm.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalWal(Arc<Mutex<Option<WalReader>>>);

impl LocalWal {
    /// The reader of the log as it is stored now: a log that began anew has another one.
    pub(crate) fn set(&self, reader: Option<WalReader>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reader;
    }
}

impl WalBytes for LocalWal {
    async fn read(&self, wal: Range<Lsn>) -> Result<Bytes, String> {
        let reader = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reader = reader.ok_or("there is no log")?;
        let read = tokio::task::spawn_blocking(move || read_all(&reader, wal));
        read.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// The reader stops at segment ends, and gives nothing while the log is being cut.
fn read_all(reader: &WalReader, wal: Range<Lsn>) -> Result<Bytes, String> {
    let length = usize::try_from(wal.end.bytes_since(wal.start)).map_err(|error| error.to_string())?;
    let mut all = BytesMut::new();
    while all.len() < length {
        let at = wal.start.saturating_add(all.len() as u64);
        let part = reader.read(at, length - all.len()).map_err(|error| error.to_string())?;
        if part.is_empty() {
            return Err(format!("there is nothing at {at}"));
        }
        if all.is_empty() && part.len() == length {
            return Ok(part);
        }
        all.extend_from_slice(&part);
    }
    Ok(all.freeze())
}
