//! [`BaseBackup`]: a copy of a whole cluster, taken through the replication protocol from a primary or a standby, 13 to 18.
//!
//! What arrives is checked while it goes by: the tar headers, every file against the server's manifest, the manifest against itself,
//! `backup_label` against what the server announced, `pg_control` against its checksum, every page against its own. The caller gets
//! directories, files and their bytes in order, as slices of the read buffer; nothing is kept but a checksum per file.
//!
//! A backup is worth something only once [`BaseBackup::finish`] has said so. The WAL it needs can be pinned on the server ([`Pin`])
//! until whoever archives it has it. What becomes of the copy is unknown here.

mod command;
mod error;
mod options;
mod pages;
mod session;
mod tar;
mod verify;

pub use error::BackupError;
pub use options::BackupOptions;
pub use session::Pin;

use crate::error::Error;
use backup_format::{BackupLabel, ControlFile, DamagedPage, DataPath, LsnOnTli, Manifest, Tablespace, WalRange};
use bytes::{Buf, Bytes};
use lsn::{SegmentSize, SystemId};
use pq_proto::SqlState;
use pq_proto::backend::{BackendMessage, Report};
use session::Session;
use std::time::{Duration, Instant, SystemTime};
use verify::Verifier;

/// Data of a COPY may come in empty messages; so many of them in a row are a server gone mad.
const MAX_EMPTY: u32 = 1_000_000;
/// Longest `backup_label` that is kept for a look.
const MAX_LABEL: usize = 1 << 20;

/// What is known when a backup begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupFacts {
    /// The server, as configured.
    pub host: String,
    /// The cluster.
    pub system_id: SystemId,
    /// `server_version_num`, 130000 to 189999.
    pub version_num: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// Whether its pages carry checksums.
    pub page_checksums: bool,
    /// Redo of the checkpoint it begins with.
    pub begin: LsnOnTli,
    /// The history file of the TLI on which the server was before it began; `None` for one without.
    pub history: Option<Bytes>,
    /// Tablespaces besides the main directory.
    pub tablespaces: Vec<Tablespace>,
    /// About how many bytes will come, by the server's estimate before it began.
    pub estimated_bytes: u64,
}

/// One step of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A directory.
    Directory {
        /// Where.
        path: DataPath,
        /// Permission bits.
        mode: u32,
    },
    /// A file begins; exactly `size` bytes of [`Item::Data`] follow.
    File {
        /// Where; of a tablespace below `pg_tblspc/<oid>/`.
        path: DataPath,
        /// Permission bits.
        mode: u32,
        /// Its bytes.
        size: u64,
    },
    /// The next bytes of the file; never empty.
    Data(Bytes),
}

/// A complete and verified backup.
#[derive(Debug)]
pub struct Finished {
    /// WAL is needed up to here.
    pub end: LsnOnTli,
    /// The WAL needed, by TLI, oldest first.
    pub wal_ranges: Vec<WalRange>,
    /// When it began, by the server's clock, in whole seconds.
    pub begin_time: SystemTime,
    /// When it ended, by the server's clock; never too early.
    pub end_time: SystemTime,
    /// The server was a standby.
    pub from_standby: bool,
    /// `backup_manifest`, as the server wrote it.
    pub manifest: Bytes,
    /// Files, without directories.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the server says about wrong page checksums; `None`: all were right, or pages carry none.
    pub damage: Option<Damage>,
    /// Keeps the WAL of the backup on the server as long as it lives, if asked for.
    pub pin: Option<Pin>,
}

/// Pages that are damaged on the server. The backup holds them as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// What the server said.
    pub message: String,
    /// Those we found, at most ten thousand. A page written while it was read may be among them.
    pub pages: Vec<DamagedPage>,
}

/// A backup under way.
#[derive(Debug)]
pub struct BaseBackup {
    session: Session,
    facts: BackupFacts,
    /// One CopyOut per archive, as up to 14.
    is_old: bool,
    /// Archives begun; the last one is the main directory.
    archives: usize,
    target: Target,
    tar: tar::Reader,
    manifest: Vec<u8>,
    verifier: Verifier,
    small: SmallFiles,
    started: Instant,
    is_copied: bool,
    empty: u32,
}

/// Where the bytes of the COPY go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Nothing,
    /// An archive; of a tablespace or (`None`) the main directory.
    Archive(Option<u32>),
    Manifest,
}

/// The two files that are looked into, kept while they go by.
#[derive(Debug, Default)]
struct SmallFiles {
    current: Option<Small>,
    label: Vec<u8>,
    label_time: u64,
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Small {
    Label,
    Control,
}

impl BaseBackup {
    /// Connects, pins the WAL if asked for, and begins. The server makes a checkpoint first, which takes minutes unless it is a fast one.
    ///
    /// # Errors
    /// The server cannot be reached, is not supported, or refuses.
    pub async fn start(options: &BackupOptions) -> Result<BaseBackup, BackupError> {
        let command_options = options.checked()?;
        let mut session = Session::open(options).await?;
        let server = session.identify().await?;
        let command = command::base_backup(&command_options, server.version_num)?;
        let started = session.start(&command).await?;
        let facts = BackupFacts {
            host: session.host().to_owned(),
            system_id: server.system_id,
            version_num: server.version_num,
            segment_size: server.segment_size,
            page_checksums: server.page_checksums,
            begin: started.begin,
            history: server.history,
            tablespaces: started.tablespaces,
            estimated_bytes: started.estimated_bytes,
        };
        let pages = (server.page_checksums && server.has_usual_pages).then_some(facts.begin.lsn);
        Ok(BaseBackup {
            session,
            is_old: server.version_num < 150_000,
            archives: 0,
            target: Target::Nothing,
            tar: tar::Reader::default(),
            manifest: Vec::new(),
            verifier: Verifier::new(options.manifest_checksums, pages),
            small: SmallFiles::default(),
            started: Instant::now(),
            is_copied: false,
            empty: 0,
            facts,
        })
    }

    /// What it is a backup of.
    pub fn facts(&self) -> &BackupFacts {
        &self.facts
    }

    /// The next step; `None` after the last file. Cancel-safe.
    ///
    /// # Errors
    /// The backup is over and worth nothing.
    pub async fn next_item(&mut self) -> Result<Option<Item>, BackupError> {
        loop {
            if let Some(item) = self.poll_tar()? {
                return Ok(Some(item));
            }
            if self.is_copied {
                return Ok(None);
            }
            let message = self.session.recv().await?;
            self.handle(message)?;
        }
    }

    /// Ends a backup whose items have all been taken, and says whether it is good: complete, as the manifest says, and ended in order
    /// by the server.
    ///
    /// # Errors
    /// It is worth nothing. Damaged pages are no error here: see [`Finished::damage`].
    pub async fn finish(mut self) -> Result<Finished, BackupError> {
        if !self.is_copied || self.tar.is_within_entry() {
            return Err(BackupError::Answer("BASE_BACKUP: it was ended before its last file"));
        }
        let (end, refusal) = self.session.end().await?;
        let damage = match refusal {
            None => None,
            Some(report) if report.code == data_corrupted() => {
                Some(Damage { message: report.message, pages: self.verifier.take_wrong_pages() })
            }
            Some(report) => return Err(Error::from_report(report).into()),
        };
        let elapsed = self.started.elapsed();
        let manifest = Manifest::parse(&self.manifest)?;
        if manifest.system_id.is_some_and(|id| id != self.facts.system_id) {
            return Err(BackupError::Contradiction("the manifest names another system identifier"));
        }
        self.verifier.check(&manifest)?;
        let wal_ranges = self.check_wal_ranges(manifest.wal_ranges, end)?;
        let label = self.check_small_files()?;
        let begin_time = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(self.small.label_time))
            .ok_or(BackupError::Contradiction("backup_label is of an impossible time"))?;
        // The server's seconds were cut off, and its first words took their time to reach us.
        let end_time = begin_time
            .checked_add(elapsed + Duration::from_secs(2))
            .ok_or(BackupError::Contradiction("backup_label is of an impossible time"))?;
        Ok(Finished {
            end,
            wal_ranges,
            begin_time,
            end_time,
            from_standby: label.from_standby,
            manifest: self.manifest.into(),
            files: self.verifier.files(),
            bytes: self.verifier.bytes(),
            damage,
            pin: self.session.into_pin(),
        })
    }

    fn handle(&mut self, message: BackendMessage) -> Result<(), BackupError> {
        match message {
            BackendMessage::CopyData(bytes) if self.is_old => self.take(bytes),
            BackendMessage::CopyData(bytes) => self.take_tagged(bytes),
            BackendMessage::CopyOutResponse if self.is_old => {
                // One archive per tablespace, the main directory last, then the manifest.
                let spaces = self.facts.tablespaces.len();
                self.target = match self.archives {
                    archive if archive < spaces => Target::Archive(Some(self.facts.tablespaces[archive].oid)),
                    archive if archive == spaces => Target::Archive(None),
                    archive if archive == spaces + 1 => Target::Manifest,
                    _ => return Err(BackupError::Answer("BASE_BACKUP: it sent more archives than it announced")),
                };
                self.archives += 1;
                Ok(())
            }
            // The one COPY since 15.
            BackendMessage::CopyOutResponse if self.target == Target::Nothing && self.archives == 0 => Ok(()),
            BackendMessage::CopyDone => {
                self.end_archive()?;
                let archives = self.facts.tablespaces.len() + 1;
                // Old servers send the manifest in a COPY of its own.
                self.is_copied = !self.is_old || self.archives == archives + 1;
                if !self.is_old && self.archives != archives {
                    return Err(BackupError::Answer("BASE_BACKUP: it sent fewer archives than it announced"));
                }
                Ok(())
            }
            BackendMessage::ErrorResponse(report) => Err(Error::from_report(report).into()),
            other => Err(pg_conn::Error::Unexpected(other.name()).into()),
        }
    }

    /// The single COPY since 15: a byte says what follows.
    fn take_tagged(&mut self, mut bytes: Bytes) -> Result<(), BackupError> {
        if !bytes.has_remaining() {
            return self.take(bytes);
        }
        match bytes.get_u8() {
            b'd' => self.take(bytes),
            b'p' => Ok(()),
            b'm' => {
                self.end_archive()?;
                self.target = Target::Manifest;
                Ok(())
            }
            b'n' => {
                self.end_archive()?;
                let end = bytes.iter().position(|byte| *byte == 0).ok_or(BackupError::Answer("BASE_BACKUP"))?;
                let name = std::str::from_utf8(&bytes[..end]).map_err(|_| BackupError::Answer("BASE_BACKUP"))?;
                let oid = match name.strip_suffix(".tar") {
                    Some("base") => None,
                    Some(oid) => Some(oid.parse().map_err(|_| BackupError::Answer("BASE_BACKUP"))?),
                    None => return Err(BackupError::Answer("BASE_BACKUP: it compressed what should be plain")),
                };
                if oid.is_some_and(|oid: u32| !self.facts.tablespaces.iter().any(|space| space.oid == oid)) {
                    return Err(BackupError::Answer("BASE_BACKUP: it sent a tablespace it did not announce"));
                }
                self.archives += 1;
                self.target = Target::Archive(oid);
                Ok(())
            }
            _ => Err(BackupError::Answer("BASE_BACKUP")),
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<(), BackupError> {
        if bytes.is_empty() {
            self.empty += 1;
            return if self.empty > MAX_EMPTY { Err(BackupError::Answer("BASE_BACKUP")) } else { Ok(()) };
        }
        self.empty = 0;
        match self.target {
            Target::Archive(_) => self.tar.push(bytes),
            Target::Manifest if self.manifest.len() + bytes.len() > backup_format::MAX_MANIFEST => {
                return Err(BackupError::ManifestTooLong);
            }
            Target::Manifest => self.manifest.extend_from_slice(&bytes),
            Target::Nothing => return Err(BackupError::Answer("BASE_BACKUP")),
        }
        Ok(())
    }

    fn end_archive(&mut self) -> Result<(), BackupError> {
        self.target = Target::Nothing;
        Ok(std::mem::take(&mut self.tar).finish()?)
    }

    fn poll_tar(&mut self) -> Result<Option<Item>, BackupError> {
        let Target::Archive(space) = self.target else { return Ok(None) };
        Ok(match self.tar.poll()? {
            None => None,
            Some(tar::Event::Data(bytes)) => {
                self.verifier.data(&bytes);
                self.small.data(&bytes);
                Some(Item::Data(bytes))
            }
            Some(tar::Event::Entry(entry)) => {
                let path = match space {
                    None => entry.path,
                    Some(oid) => DataPath::below(&format!("pg_tblspc/{oid}"), &entry.path)
                        .map_err(|error| BackupError::Tar(error.into()))?,
                };
                if entry.is_directory {
                    return Ok(Some(Item::Directory { path, mode: entry.mode }));
                }
                self.small.file(&path, entry.modified);
                self.verifier.file(&path, entry.size)?;
                Some(Item::File { path, mode: entry.mode, size: entry.size })
            }
        })
    }

    /// The manifest's WAL must lead from what the server said first to what it said last.
    fn check_wal_ranges(&self, ranges: Vec<WalRange>, end: LsnOnTli) -> Result<Vec<WalRange>, BackupError> {
        let begin = self.facts.begin;
        let leads = ranges.windows(2).all(|two| two[0].end == two[1].begin)
            && ranges.first().is_some_and(|first| (first.begin, first.tli) == (begin.lsn, begin.tli))
            && ranges.last().is_some_and(|last| (last.end, last.tli) == (end.lsn, end.tli));
        leads
            .then_some(ranges)
            .ok_or(BackupError::Contradiction("the manifest's WAL ranges are not those of the backup"))
    }

    fn check_small_files(&self) -> Result<BackupLabel, BackupError> {
        let label = BackupLabel::parse(&self.small.label)?;
        if (label.start, label.tli) != (self.facts.begin.lsn, self.facts.begin.tli) {
            return Err(BackupError::Contradiction("backup_label begins elsewhere than the server said"));
        }
        if label.incremental_from.is_some() {
            return Err(BackupError::Contradiction("it is an incremental backup, which nobody asked for"));
        }
        // The server reads this file while it may be writing it; a torn one is rare, and fatal to a restore.
        let control = ControlFile::parse(&self.small.control)?;
        if control.system_id != self.facts.system_id {
            return Err(BackupError::Contradiction("pg_control is that of another cluster"));
        }
        Ok(label)
    }
}

impl SmallFiles {
    fn file(&mut self, path: &DataPath, modified: u64) {
        self.current = match path.as_bytes() {
            b"backup_label" => {
                self.label_time = modified;
                Some(Small::Label)
            }
            b"global/pg_control" => Some(Small::Control),
            _ => None,
        };
    }

    fn data(&mut self, bytes: &[u8]) {
        let kept = match self.current {
            None => return,
            Some(Small::Label) => &mut self.label,
            Some(Small::Control) => &mut self.control,
        };
        // What exceeds this is no such file, and its parser says so.
        let room = (MAX_LABEL + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// What the server's refusal at the end of a backup with damaged pages is.
fn data_corrupted() -> SqlState {
    SqlState::new("XX001").unwrap_or(SqlState::INTERNAL_ERROR)
}

/// What a report is worth to a reader of the log.
fn describe(report: &Report) -> String {
    report.detail.as_ref().map_or_else(|| report.message.clone(), |detail| format!("{}: {detail}", report.message))
}

#[cfg(test)]
mod server_test;
