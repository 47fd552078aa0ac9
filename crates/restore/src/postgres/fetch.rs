//! One file of WAL from the archive: the objects that make it up, put together, checked record by record, zeros behind its end.
//!
//! What is handed out was verified three times over: every object by its own checksum and length (`replica-client`), bytes that two
//! objects both have against each other, and the whole by page headers, links and checksums of its records. So a swapped or damaged
//! object is named here, and never reaches a server as the end of the WAL.
//!
//! A file is either there, or surely not there, or there is an error: an archive that cannot be asked is never "not there", because a
//! server in recovery would take that for the end and begin to write.

use super::holdings::{Holdings, Source};
use super::lineage::{Lineage, Step};
use super::walk::{self, Run};
use bytes::Bytes;
use lsn::{Lsn, SegmentNumber, SegmentSize, SystemId, Tli};
use replica_client::cover::{self, Assembly, AssemblyError};
use replica_client::{Error as ReplicaError, Generation, Kind, PieceEnd, PieceName, PostgresReplica};
use std::io;
use std::path::PathBuf;
use wal_format::ScanError;
use wal_format::history::{History, HistoryError};

/// Why a file cannot be had, though it may be there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The archive.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// Bytes that must be there are in no object.
    #[error(
        "the archive lacks WAL {from} to {to} of generation {generation}: objects of segment {segment} are missing"
    )]
    Missing {
        /// First missing byte.
        from: Lsn,
        /// The byte after the last missing one.
        to: Lsn,
        /// Where they should be.
        generation: Generation,
        /// The file's name.
        segment: String,
    },
    /// Two objects say different things about one byte.
    #[error(
        "objects of segment {segment} contradict each other: {source} (among them generation {generation}, piece at {at})"
    )]
    Contradiction {
        /// The file's name.
        segment: String,
        /// Where one of them is.
        generation: Generation,
        /// Where in the segment it begins.
        at: u64,
        /// How.
        source: AssemblyError,
    },
    /// The bytes are not this segment's WAL.
    #[error("{object} does not hold the WAL its name says: {source}")]
    Wal {
        /// The object.
        object: String,
        /// What is wrong with its bytes.
        source: ScanError,
    },
    /// A history file that says something else than the archive's tree.
    #[error("the history file of generation {generation} contradicts the archive's parent links")]
    History {
        /// The generation.
        generation: Generation,
    },
    /// A history file that cannot be read.
    #[error("the history file of generation {generation} cannot be read: {source}")]
    BadHistory {
        /// The generation.
        generation: Generation,
        /// Why.
        source: HistoryError,
    },
    /// A local file of WAL.
    #[error("cannot read {}: {source}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A worker thread ended.
    #[error("checking a segment was cut short")]
    Stopped,
}

/// A file of WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The bytes, of full segment length.
    pub bytes: Bytes,
    /// How many of them are WAL; zeros follow.
    pub filled: u64,
}

/// Fetches the WAL of one lineage.
#[derive(Clone, Debug)]
pub struct Fetcher {
    replica: PostgresReplica,
    lineage: Lineage,
    end: Lsn,
    local: Option<PathBuf>,
}

impl Fetcher {
    /// For a lineage. Nothing at or above `end` is ever handed out; below it everything must be there. [`Lsn::MAX`]: whatever there is.
    pub fn new(replica: PostgresReplica, lineage: Lineage, end: Lsn) -> Fetcher {
        Fetcher { replica, lineage, end, local: None }
    }

    /// Looks into this folder of complete segment files first.
    pub fn with_local(self, folder: PathBuf) -> Fetcher {
        Fetcher { local: Some(folder), ..self }
    }

    /// The archive.
    pub fn replica(&self) -> &PostgresReplica {
        &self.replica
    }

    /// The lineage.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Bytes per segment.
    pub fn size(&self) -> SegmentSize {
        self.replica.era().segment_size
    }

    /// Whose WAL it is.
    pub fn system_id(&self) -> SystemId {
        self.replica.era().system_id
    }

    /// The end above which nothing is handed out.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// The same with another end.
    pub fn until(&self, end: Lsn) -> Fetcher {
        Fetcher { end, ..self.clone() }
    }

    /// The file a server calls `%08X%08X%08X` of `tli`. `None`: surely not there (not on the lineage, above the end, or not archived).
    pub async fn by_name(&self, tli: Tli, number: SegmentNumber) -> Result<Option<Segment>, FetchError> {
        let Some(step) = self.lineage.step_of_tli(tli) else { return Ok(None) };
        self.segment(step, number).await
    }

    /// The segment's bytes as the newest step in it has them.
    pub async fn on_lineage(&self, number: SegmentNumber) -> Result<Option<Segment>, FetchError> {
        match self.lineage.step_of_segment(self.size(), number, self.end) {
            Some(step) => self.segment(step, number).await,
            None => Ok(None),
        }
    }

    /// The name of a segment's file on a step.
    pub fn file_name(&self, step: Step, number: SegmentNumber) -> String {
        self.size().file_name(step.tli(), number)
    }

    async fn segment(&self, step: Step, number: SegmentNumber) -> Result<Option<Segment>, FetchError> {
        let (size, start) = (self.size(), self.size().start_of(number));
        let limit = self.end.min(size.start_of(number.next()));
        if limit <= start || step.begin >= limit {
            return Ok(None);
        }
        if let Some(bytes) = self.local(step, number)? {
            let filled = limit.bytes_since(start);
            return self.checked(step, number, bytes, filled, Vec::new()).await.map(Some);
        }
        // A merged segment is the usual case, and needs no listing.
        let merged = PieceName { index: number.0, start: 0, end: PieceEnd::Segment };
        match self.replica.read_piece(step.generation, merged).await {
            Ok(bytes) => {
                let filled = limit.bytes_since(start);
                let whole = 0..size.bytes();
                let source =
                    Source { generation: step.generation, name: merged, span: whole.clone(), whole, stored: 0 };
                return self.checked(step, number, bytes.to_vec(), filled, vec![source]).await.map(Some);
            }
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        self.put_together(step, number, limit).await
    }

    async fn put_together(&self, step: Step, number: SegmentNumber, limit: Lsn) -> Result<Option<Segment>, FetchError> {
        let (size, start) = (self.size(), self.size().start_of(number));
        let held = Holdings::list_segment(&self.replica, &self.lineage, size, step, number).await?;
        let sources = held.sources(&self.lineage, size, step, number);
        let spans: Vec<_> = sources.iter().map(|source| source.span.clone()).collect();
        let wanted = match self.end {
            // Whatever there is from the segment's start on, if nothing above it says that there must be more.
            Lsn::MAX => cover::reach(&spans, 0),
            _ => limit.bytes_since(start),
        };
        let above = spans.iter().map(|span| span.start).filter(|start| *start > wanted).min();
        let missing = |from: u64, to: u64| FetchError::Missing {
            from: start.saturating_add(from),
            to: start.saturating_add(to),
            generation: step.generation,
            segment: self.file_name(step, number),
        };
        match above {
            Some(above) if self.end == Lsn::MAX => return Err(missing(wanted, above)),
            _ if wanted == 0 => return Ok(None),
            _ => {}
        }
        let parts = cover::cover(&spans, 0..wanted).map_err(|gap| missing(gap.missing.start, gap.missing.end))?;
        let mut assembly = Assembly::new(size.bytes());
        for part in &parts {
            let source = &sources[part.piece];
            let bytes = self.replica.read_piece(source.generation, source.name).await?;
            let usable = (source.span.end - source.span.start).min(bytes.len() as u64) as usize;
            assembly.add(source.span.start, &bytes[..usable]).map_err(|error| FetchError::Contradiction {
                segment: self.file_name(step, number),
                generation: source.generation,
                at: source.whole.start,
                source: error,
            })?;
        }
        let bytes = assembly.finish(0..wanted).map_err(|error| FetchError::Contradiction {
            segment: self.file_name(step, number),
            generation: step.generation,
            at: 0,
            source: error,
        })?;
        let used = parts.iter().map(|part| sources[part.piece].clone()).collect();
        self.checked(step, number, bytes, wanted, used).await.map(Some)
    }

    /// A file that was put aside, such as the tail read from a quorum.
    fn local(&self, step: Step, number: SegmentNumber) -> Result<Option<Vec<u8>>, FetchError> {
        let Some(folder) = &self.local else { return Ok(None) };
        let path = folder.join(self.file_name(step, number));
        match std::fs::read(&path) {
            Ok(bytes) if bytes.len() as u64 == self.size().bytes() => Ok(Some(bytes)),
            Ok(_) => Err(FetchError::Local { path, source: io::ErrorKind::UnexpectedEof.into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FetchError::Local { path, source }),
        }
    }

    /// Cuts the bytes to what counts, walks their records, and fills up with zeros.
    async fn checked(
        &self,
        step: Step,
        number: SegmentNumber,
        mut bytes: Vec<u8>,
        filled: u64,
        used: Vec<Source>,
    ) -> Result<Segment, FetchError> {
        let (size, system_id, start) = (self.size(), self.system_id(), self.size().start_of(number));
        let name = self.file_name(step, number);
        let work = move || {
            bytes.truncate(filled as usize);
            let run = Run { size, system_id, start, bytes: &bytes };
            walk::records(run, |_, _| {}).map_err(|source| FetchError::Wal {
                object: culprit(&used, start, source.at()).unwrap_or(name),
                source,
            })?;
            bytes.resize(size.bytes() as usize, 0);
            Ok(Segment { bytes: bytes.into(), filled })
        };
        // Checksums of a gigabyte must not hold up the downloads beside.
        tokio::task::spawn_blocking(work).await.map_err(|_| FetchError::Stopped)?
    }

    /// The history file of a TLI. One that is not on the lineage is there too, if the archive knows any: a server that looks for a free
    /// number must see it as taken.
    pub async fn history(&self, tli: Tli) -> Result<Option<Bytes>, FetchError> {
        if let Some(step) = self.lineage.step_of_tli(tli) {
            let generation = step.generation;
            let Some(bytes) = self.replica.history(generation).await? else {
                return Ok(self.lineage.history(tli).map(|history| Bytes::from(history.to_string())));
            };
            let history =
                History::parse(tli, &bytes).map_err(|source| FetchError::BadHistory { generation, source })?;
            return match self.lineage.agrees_with(&history) {
                true => Ok(Some(bytes)),
                false => Err(FetchError::History { generation }),
            };
        }
        let tree = self.replica.lineages().await?;
        let Some(generation) = tree.keys().copied().find(|generation| generation.tli() == tli) else { return Ok(None) };
        if let Some(bytes) = self.replica.history(generation).await? {
            return Ok(Some(bytes));
        }
        let known = Lineage::choose(&tree, Some(generation)).ok().and_then(|lineage| lineage.history(tli));
        // Taken is taken, whatever its history was; a comment is a valid file without ancestors.
        let text = known.map_or_else(|| "# archived, its history is not\n".to_owned(), |history| history.to_string());
        Ok(Some(Bytes::from(text)))
    }
}

/// The object that holds the byte at which the walk stopped.
fn culprit(used: &[Source], start: Lsn, at: Lsn) -> Option<String> {
    let offset = at.bytes_since(start);
    let source = used.iter().find(|source| source.span.contains(&offset)).or(used.last())?;
    let end = match source.name.end {
        PieceEnd::Segment => "the merged segment".to_owned(),
        _ => format!("the piece from {} to {}", source.whole.start, source.whole.end),
    };
    Some(format!("{end} of segment {:016x} in generation {}", source.name.index, source.generation))
}
