//! [`WalFiles`]: the WAL of a server that is down, read as its crash recovery will read it.
//!
//! Where recovery begins stands in `global/pg_control`, what our slot holds in `pg_replslot/<slot>/state` (restart_lsn at 96).
//! Neither is changed. Recovery replays every record from there that verifies, so where verification ends the server's WAL ends.
//! It goes on to the TLI of the newest checkpoint, or to that of the minimum recovery point where it is newer: a promotion writes
//! that down together with its end-of-recovery record, before its first checkpoint.

use crate::driver::Driver;
use crate::primary::Order;
use backup_format::{ControlFile as PgControl, DbState};
use bytes::Bytes;
use disk::{Disk, OpenMode, RealDisk};
use leader::{Ancestor, PrimaryFacts, PrimaryFailure, Slot, StreamFailure};
use lsn::{Lsn, SegmentNumber, SegmentSize, SystemId, Tli};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::sync::mpsc;
use wal_format::history::History;
use wal_format::{PageHeader, ScanOptions, Scanner};

/// Bytes read at a time.
const CHUNK: usize = 128 << 10;

/// Why a data directory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file is not there, or not readable.
    #[error("cannot read {path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Something in it is not what it should be.
    #[error("{path}: {problem}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The WAL cannot be made durable.
    #[error("the WAL of the server cannot be made durable: {0}")]
    Sync(#[from] wal_storage::Error),
}

/// The WAL of a server that is down.
#[derive(Debug)]
pub struct WalFiles {
    wal: PathBuf,
    system_id: SystemId,
    tli: Tli,
    history: Option<(History, String)>,
    segment_size: SegmentSize,
    slot: Option<Lsn>,
    present: BTreeSet<(SegmentNumber, Tli)>,
    end: Lsn,
}

impl WalFiles {
    /// Makes the WAL of a data directory durable and finds its end; `None` if the directory is that of a standby, which shows
    /// nothing that was not public before. The server must be down.
    pub fn open(data_dir: &Path, slot: &str) -> Result<Option<WalFiles>, FilesError> {
        if ["standby.signal", "recovery.signal"].iter().any(|name| data_dir.join(name).exists()) {
            return Ok(None);
        }
        let control = data_dir.join("global/pg_control");
        let bytes = read(&control)?;
        let bad =
            |path: &Path, problem: &str| FilesError::Content { path: path.to_owned(), problem: problem.to_owned() };
        let found = PgControl::parse(&bytes).map_err(|error| bad(&control, &error.to_string()))?;
        let (system_id, redo) = (found.system_id, found.redo);
        let ran = [DbState::ShutDown, DbState::ShuttingDown, DbState::InCrashRecovery, DbState::InProduction];
        if !ran.contains(&found.state) {
            return Err(bad(&control, "the server was in archive recovery; start it once by hand"));
        }
        let tli = found.tli.max(found.min_recovery_tli);
        let wal = data_dir.join("pg_wal");
        wal_storage::sync_files(&RealDisk, &wal, |name| name.len() == 24 || name.ends_with(".history"))?;
        let history = history(&wal, tli)?;
        if tli > found.tli && history.is_none() {
            return Err(bad(
                &wal.join(History::file_name(tli)),
                "the server was promoted to this TLI, and it is missing",
            ));
        }
        let (segment_size, present) = segments(&wal, tli)?;
        let slot = slot_position(&data_dir.join("pg_replslot").join(slot).join("state"))?;
        let mut files = WalFiles { wal, system_id, tli, history, segment_size, slot, present, end: redo };
        files.end = files.find_end(redo)?;
        Ok(Some(files))
    }

    /// Whether the server has our slot.
    pub fn has_slot(&self) -> bool {
        self.slot.is_some()
    }

    /// End of the last record that recovery will replay.
    pub fn end(&self) -> Lsn {
        self.end
    }

    fn find_end(&self, redo: Lsn) -> Result<Lsn, FilesError> {
        let options = ScanOptions { system_id: Some(self.system_id), ..ScanOptions::new(self.segment_size) };
        let mut scanner = Scanner::at_record_boundary(options, redo);
        loop {
            let bytes = self.read(scanner.position(), CHUNK)?;
            if bytes.is_empty() || scanner.feed(&bytes).is_err() {
                return Ok(scanner.verified_end().unwrap_or(redo));
            }
        }
    }

    /// Bytes from `at` on within a segment; empty where there is no file.
    fn read(&self, at: Lsn, most: usize) -> Result<Bytes, FilesError> {
        let segment = self.segment_size.segment_of(at);
        // The newest TLI with bytes in a segment has all of them; what an older one has beyond the switch is not of this server.
        let last = Lsn(self.segment_size.start_of(segment).0.saturating_add(self.segment_size.bytes() - 1));
        let entries = || self.history.iter().flat_map(|(history, _)| history.entries());
        let highest = entries().find(|entry| entry.switch > last).map_or(self.tli, |entry| entry.tli);
        let begin = entries().rfind(|entry| entry.tli < highest).map_or(Lsn::INVALID, |entry| entry.switch);
        let newest = self.present.range((segment, Tli(0))..=(segment, highest)).next_back();
        let Some((_, tli)) = newest else { return Ok(Bytes::new()) };
        let path = self.wal.join(self.segment_size.file_name(*tli, segment));
        let failed = |error| FilesError::Io { path: path.clone(), error };
        let file = RealDisk.open(&path, OpenMode::Read).map_err(failed)?;
        let offset = self.segment_size.offset_of(at);
        let rest = self.segment_size.bytes() - offset;
        let rest = if *tli == highest { rest } else { rest.min(begin.bytes_since(at)) };
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let mut bytes = vec![0; most.min(rest)];
        let read = file.read_at(&mut bytes, offset).map_err(failed)?;
        bytes.truncate(read);
        Ok(bytes.into())
    }

    fn facts(&self, driver: &Driver) -> PrimaryFacts {
        let entries = self.history.iter().flat_map(|(history, _)| history.entries());
        let oldest = self.present.first().map(|(segment, _)| self.segment_size.start_of(*segment));
        PrimaryFacts {
            system_id: self.system_id,
            tli: self.tli,
            ancestors: entries.map(|entry| Ancestor { tli: entry.tli, switch: entry.switch }).collect(),
            tli_history: self.history.as_ref().map(|(_, text)| text.clone()).unwrap_or_default(),
            oldest,
            flush: self.end,
            segment_size: self.segment_size,
            version_num: 0,
            slot: self.slot.map(|restart| Slot { restart: Some(restart).filter(|restart| restart.is_valid()) }),
            fence_token: driver.fence_token(),
        }
    }
}

/// Serves the files as if they were a primary that never writes.
pub(crate) async fn run(driver: Rc<Driver>, id: u64, files: Rc<WalFiles>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let facts = files.facts(&driver);
    if !driver.primary_event(id, |leader, now| leader.handle_primary_checked(now, facts)) {
        return;
    }
    let refused = |reason: &str| PrimaryFailure::Refused(reason.to_owned());
    let from = match orders.recv().await {
        Some(Order::StartStream { from, .. }) => from,
        Some(Order::CreateSlot) => {
            let failure =
                refused("the server has no slot of ours yet: start it, and its proposer, before anything else");
            driver.primary_event(id, |leader, now| leader.handle_primary_failed(now, failure));
            return;
        }
        Some(Order::Close) | None => return,
    };
    let restart = files.slot.unwrap_or(Lsn::INVALID);
    let mut at = from;
    while at < files.end {
        let rest = usize::try_from(files.end.bytes_since(at)).unwrap_or(usize::MAX);
        match files.read(at, CHUNK.min(rest)) {
            Ok(bytes) if bytes.is_empty() && at == from => {
                driver
                    .primary_event(id, |leader, now| leader.handle_stream_refused(now, StreamFailure::SegmentRemoved));
                return;
            }
            Ok(bytes) if !bytes.is_empty() => {
                if at == from && !driver.primary_event(id, |leader, now| leader.handle_stream_started(now, restart)) {
                    return;
                }
                let (begin, end) = (at, at.saturating_add(bytes.len() as u64));
                if !driver.primary_event(id, |leader, now| leader.handle_wal(now, begin, bytes)) {
                    return;
                }
                at = end;
                driver.wal_room().await;
                tokio::task::yield_now().await;
            }
            other => {
                let reason = other.err().map_or_else(|| format!("there is no WAL at {at}"), |error| error.to_string());
                driver.primary_event(id, |leader, now| leader.handle_primary_failed(now, refused(&reason)));
                return;
            }
        }
    }
    if from >= files.end {
        driver.primary_event(id, |leader, now| leader.handle_stream_started(now, restart));
    }
    while !matches!(orders.recv().await, Some(Order::Close) | None) {}
}

fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    std::fs::read(path).map_err(|error| FilesError::Io { path: path.to_owned(), error })
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn history(wal: &Path, tli: Tli) -> Result<Option<(History, String)>, FilesError> {
    let path = wal.join(History::file_name(tli));
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FilesError::Io { path, error }),
    };
    let history = History::parse(tli, &bytes).map_err(|error| error.to_string());
    let text = String::from_utf8(bytes).map_err(|error| error.to_string());
    match (history, text) {
        (Ok(history), Ok(text)) => Ok(Some((history, text))),
        (Err(problem), _) | (_, Err(problem)) => Err(FilesError::Content { path, problem }),
    }
}

fn names(directory: &Path) -> Result<Vec<String>, FilesError> {
    let entries = RealDisk.list(directory).map_err(|error| FilesError::Io { path: directory.to_owned(), error })?;
    Ok(entries.into_iter().filter_map(|entry| entry.name.into_string().ok()).collect())
}

/// The segment size, from the header of any segment, and the segments there are on this TLI and those below.
fn segments(wal: &Path, tli: Tli) -> Result<(SegmentSize, BTreeSet<(SegmentNumber, Tli)>), FilesError> {
    let names: Vec<String> = names(wal)?.into_iter().filter(|name| name.len() == 24).collect();
    let size = names.iter().find_map(|name| {
        let file = RealDisk.open(&wal.join(name), OpenMode::Read).ok()?;
        let mut header = [0; 40];
        let read = file.read_at(&mut header, 0).ok()?;
        let long = PageHeader::parse(header.get(..read)?)?.long?;
        SegmentSize::new(long.segment_size.into()).ok()
    });
    let problem = "no segment of WAL in it can be read".to_owned();
    let size = size.ok_or_else(|| FilesError::Content { path: wal.to_owned(), problem })?;
    let parsed = names.iter().filter_map(|name| size.parse_file_name(name)).filter(|(of, _)| *of <= tli);
    Ok((size, parsed.map(|(tli, segment)| (segment, tli)).collect()))
}

/// The slot's restart_lsn; `None` if there is no slot.
fn slot_position(path: &Path) -> Result<Option<Lsn>, FilesError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FilesError::Io { path: path.to_owned(), error }),
    };
    let problem = "it is too short for a slot".to_owned();
    number(&bytes, 96).map(|lsn| Some(Lsn(lsn))).ok_or_else(|| FilesError::Content { path: path.to_owned(), problem })
}
