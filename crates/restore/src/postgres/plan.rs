//! The plan of a restore: which snapshot, which way, which WAL, and where recovery stops.
//!
//! A plan is made before anything is written. It names the newest snapshot that was complete before the target, the lineage to follow,
//! every byte of WAL that recovery will read, and the record at which it stops.
//!
//! **Where recovery stops.** PostgreSQL without a target takes the first missing or unreadable record for the end and begins to write:
//! a lost object would pass for a complete restore. So the last record is always looked up here and named as the target, start
//! inclusive; a server that cannot get there refuses to start. This is also what "everything that ends at or below X" means exactly:
//! PostgreSQL's own inclusive LSN target applies one record too many.

use super::fetch::{FetchError, Fetcher};
use super::holdings::{Holdings, Reach};
use super::lineage::{Lineage, LineageError};
use super::target::Target;
use super::walk::{self, Meaning, Run};
use backup_format::{Snapshot, SnapshotError};
use jiff::Timestamp;
use lsn::{Lsn, SegmentNumber, SegmentSize};
use replica_client::{Error as ReplicaError, Generation, PostgresReplica};
use serde::Serialize;

/// How many segments are searched for the last transaction of an archive: a bulk load may write many in which none ends.
const END_SEGMENTS: u64 = 8;

/// What to restore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The moment.
    pub target: Target,
    /// The tip to follow; the highest TLI if `None`.
    pub generation: Option<Generation>,
}

/// How far a quorum's log reaches, beyond what is archived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuorumEnd {
    /// The lineage of its log.
    pub path: lsn::Path,
    /// Its end: committed, or about to be.
    pub end: Lsn,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The archive.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// WAL needed for planning.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No way from the root.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// A description of a snapshot that cannot be believed.
    #[error("snapshots/{lsn:016X}/snapshot.json of generation {generation}: {source}", lsn = lsn.0)]
    Snapshot {
        /// Where it is.
        generation: Generation,
        /// Its position.
        lsn: Lsn,
        /// What is wrong.
        source: SnapshotError,
    },
    /// A snapshot of something else.
    #[error("snapshots/{lsn:016X}/snapshot.json of generation {generation} describes another cluster or another place than its name says", lsn = lsn.0)]
    Misplaced {
        /// Where it is.
        generation: Generation,
        /// Its position.
        lsn: Lsn,
    },
    /// Nothing to begin with.
    #[error("no snapshot of this lineage was complete before {target}; {}", shown(.earliest))]
    NoSnapshot {
        /// What was asked for.
        target: Target,
        /// End of the oldest usable snapshot.
        earliest: Option<(Lsn, Timestamp)>,
    },
    /// An object is gone.
    #[error(
        "the archive lacks WAL from {from}, though it has some from {resumes} on: what lies between is missing; a target below {from} can be restored"
    )]
    Hole {
        /// First missing byte.
        from: Lsn,
        /// Where WAL goes on.
        resumes: Lsn,
    },
    /// The snapshot needs WAL that is not there.
    #[error("the WAL of the snapshot at {snapshot} ends at {reached} and is needed up to {needed}")]
    Unfinished {
        /// The snapshot.
        snapshot: Lsn,
        /// How far there is WAL.
        reached: Lsn,
        /// How far it is needed.
        needed: Lsn,
    },
    /// Asked for more than there is.
    #[error("the WAL reaches to {reached}, and {target} lies above it")]
    Beyond {
        /// What was asked for.
        target: Target,
        /// How far there is WAL.
        reached: Lsn,
    },
    /// No such point.
    #[error("the archived WAL of this lineage holds no {0}")]
    NotFound(Target),
    /// No record ends there.
    #[error("no whole record lies between {0} and {1}")]
    NoRecord(Lsn, Lsn),
}

fn shown(earliest: &Option<(Lsn, Timestamp)>) -> String {
    match earliest {
        Some((lsn, time)) => format!("the earliest moment is {time} (LSN {lsn})"),
        None => "there is none at all: take one with `seawall backup`".to_owned(),
    }
}

/// A snapshot and where it lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its generation.
    pub generation: Generation,
    /// Its position: the name of its folder.
    pub lsn: Lsn,
    /// Its description.
    pub snapshot: Snapshot,
}

/// Where recovery stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Behind this record, which is applied.
    Record {
        /// Its first byte.
        #[serde(with = "super::text")]
        start: Lsn,
        /// Its end.
        #[serde(with = "super::text")]
        end: Lsn,
    },
    /// Before the first transaction that ended later.
    Time(Timestamp),
}

/// What a restore will do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What was asked for.
    pub target: Target,
    /// What it begins with.
    pub chosen: Chosen,
    /// The way, cut to the end.
    pub lineage: Lineage,
    /// WAL is read up to here.
    pub end: Lsn,
    /// How far the archive reaches; what lies above, up to the end, comes from the quorum.
    pub archived: Lsn,
    /// Where recovery stops. `None` until the quorum's tail has been read.
    pub stop: Option<Stop>,
    /// What the reader should know, one sentence each.
    pub notes: Vec<String>,
    /// WAL segments that recovery reads.
    pub segments: u64,
    /// Bytes of objects to fetch for them.
    pub stored_wal: u64,
}

impl Plan {
    /// The segments that recovery reads, in order.
    pub fn numbers(&self) -> impl Iterator<Item = SegmentNumber> + use<> {
        let size = self.chosen.snapshot.segment_size;
        let first = size.segment_of(self.chosen.snapshot.begin.lsn).0;
        (first..self.end.0.div_ceil(size.bytes())).map(SegmentNumber)
    }

    /// Whether bytes above the archive are needed.
    pub fn needs_tail(&self) -> bool {
        self.end > self.archived
    }
}

/// Makes the plan.
pub async fn plan(replica: &PostgresReplica, request: &Request, quorum: Option<&QuorumEnd>) -> Result<Plan, PlanError> {
    let lineage = match (quorum, request.generation) {
        // The quorum's log is the one that counts, promotions that are not archived yet included.
        (Some(quorum), None) => Lineage::of_path(&quorum.path),
        (_, wanted) => Lineage::choose(&replica.lineages().await?, wanted)?,
    };
    let quorum = quorum.filter(|_| request.generation.is_none());
    let snapshots = snapshots(replica, &lineage).await?;
    let oldest = snapshots.first().ok_or(PlanError::NoSnapshot { target: request.target.clone(), earliest: None })?;
    let size = replica.era().segment_size;
    // A name or an xid says nothing about its place: it is looked for.
    let place = match &request.target {
        Target::Name(_) | Target::Xid(_) => {
            let held = Holdings::list(replica, &lineage, size.segment_of(oldest.snapshot.begin.lsn)).await?;
            let reach = held.reach(&lineage, size, oldest.snapshot.wal_begin());
            Some(search(replica, &lineage, &request.target, oldest.snapshot.wal_begin(), reach.end).await?)
        }
        Target::Lsn(lsn) => Some((*lsn, *lsn)),
        Target::Latest | Target::Time(_) => None,
    };
    let suits = |chosen: &&Chosen| match (&request.target, place) {
        (Target::Time(time), _) => chosen.snapshot.end_time <= *time,
        (_, Some((_, end))) => chosen.snapshot.end.lsn <= end,
        (_, None) => true,
    };
    let mut failure = None;
    for chosen in snapshots.iter().rev().filter(suits) {
        let held = Holdings::list(replica, &lineage, size.segment_of(chosen.snapshot.begin.lsn)).await?;
        let reach = held.reach(&lineage, size, chosen.snapshot.wal_begin());
        let reached = quorum.map_or(reach.end, |quorum| quorum.end.max(reach.end));
        if reached < chosen.snapshot.end.lsn {
            let error = match reach.resumes {
                Some(resumes) => PlanError::Hole { from: reach.end, resumes },
                None => PlanError::Unfinished { snapshot: chosen.lsn, reached, needed: chosen.snapshot.end.lsn },
            };
            // An older one may have been taken before the WAL broke off.
            failure.get_or_insert(error);
            continue;
        }
        return finish(replica, request, lineage.clone(), chosen.clone(), &held, reach, quorum, place).await;
    }
    let earliest = Some((oldest.snapshot.end.lsn, oldest.snapshot.end_time));
    Err(failure.unwrap_or(PlanError::NoSnapshot { target: request.target.clone(), earliest }))
}

#[expect(clippy::too_many_arguments, reason = "the second half of one function, split where its loop ends")]
async fn finish(
    replica: &PostgresReplica,
    request: &Request,
    lineage: Lineage,
    chosen: Chosen,
    held: &Holdings,
    reach: Reach,
    quorum: Option<&QuorumEnd>,
    place: Option<(Lsn, Lsn)>,
) -> Result<Plan, PlanError> {
    let size = replica.era().segment_size;
    let reached = quorum.map_or(reach.end, |quorum| quorum.end.max(reach.end));
    let wanted = place.map_or(reached, |(_, end)| end);
    // What the quorum gives above the archive's first gap closes it.
    let hole =
        reach.resumes.filter(|_| reached == reach.end).map(|resumes| PlanError::Hole { from: reach.end, resumes });
    // The end of what there is without a gap is not the latest, and a place above it is not reached.
    let beyond_hole = wanted > reach.end || request.target == Target::Latest;
    let hole = match hole {
        Some(hole) if beyond_hole => return Err(hole),
        hole => hole,
    };
    if wanted > reached {
        return Err(PlanError::Beyond { target: request.target.clone(), reached });
    }
    let fetcher = Fetcher::new(replica.clone(), lineage.clone(), wanted);
    let mut notes = Vec::new();
    let mut end = wanted;
    let stop = match (&request.target, place) {
        (Target::Name(_) | Target::Xid(_), Some((start, end))) => Some(Stop::Record { start, end }),
        _ if wanted > reach.end => None,
        (target, _) => {
            if *target == Target::Latest && quorum.is_none() {
                notes.push(archive_end(&fetcher, chosen.snapshot.wal_begin(), reach.end).await?);
            }
            let (stop, note) = find_stop(&fetcher, target, chosen.snapshot.wal_begin()).await?;
            // A moment that lies below the gap is restored all the same.
            if let (Some(hole), Target::Time(_), Stop::Record { .. }) = (hole, target, stop) {
                return Err(hole);
            }
            notes.extend(note);
            Some(stop)
        }
    };
    if let Some(Stop::Record { end: record_end, .. }) = stop {
        end = record_end.max(chosen.snapshot.end.lsn).min(wanted);
    }
    let lineage = lineage.cut(end);
    let mut plan = Plan {
        target: request.target.clone(),
        chosen,
        lineage,
        end,
        archived: reach.end,
        stop,
        notes,
        segments: 0,
        stored_wal: 0,
    };
    (plan.segments, plan.stored_wal) = volume(&plan, held, size);
    Ok(plan)
}

/// Where recovery stops, for a plan whose whole WAL the fetcher has now; and a note if that needs a word.
pub async fn stop(fetcher: &Fetcher, plan: &Plan) -> Result<(Stop, Option<String>), PlanError> {
    find_stop(fetcher, &plan.target, plan.chosen.snapshot.wal_begin()).await
}

async fn find_stop(fetcher: &Fetcher, target: &Target, begin: Lsn) -> Result<(Stop, Option<String>), PlanError> {
    match target {
        Target::Time(time) => at_time(fetcher, begin, *time).await,
        _ => Ok((last_record(fetcher, begin).await?, None)),
    }
}

/// Files and object bytes that the WAL of a plan takes.
fn volume(plan: &Plan, held: &Holdings, size: SegmentSize) -> (u64, u64) {
    let (mut files, mut stored) = (0, 0);
    for number in plan.numbers() {
        files += 1;
        let Some(step) = plan.lineage.step_of_segment(size, number, plan.end) else { continue };
        let sources = held.sources(&plan.lineage, size, step, number);
        let spans: Vec<_> = sources.iter().map(|source| source.span.clone()).collect();
        let wanted = plan.end.min(plan.archived).bytes_since(size.start_of(number)).min(size.bytes());
        let parts = replica_client::cover::cover(&spans, 0..wanted).unwrap_or_default();
        stored += parts.iter().map(|part| sources[part.piece].stored).sum::<u64>();
    }
    (files, stored)
}

/// The snapshots of a lineage that can be used with it, oldest first.
pub async fn snapshots(replica: &PostgresReplica, lineage: &Lineage) -> Result<Vec<Chosen>, PlanError> {
    let era = replica.era();
    let mut found = Vec::new();
    for step in lineage.steps() {
        let generation = step.generation;
        for info in replica.snapshots(generation).await? {
            let lsn = Lsn(info.at);
            let json = replica.read_snapshot(generation, lsn).await?;
            let snapshot =
                Snapshot::from_json(&json).map_err(|source| PlanError::Snapshot { generation, lsn, source })?;
            let fits = snapshot.system_id == era.system_id && snapshot.segment_size == era.segment_size;
            if !fits || snapshot.begin.lsn != lsn || snapshot.begin.tli != step.tli() {
                return Err(PlanError::Misplaced { generation, lsn });
            }
            // Taken on the part of its TLI that the lineage shares.
            let shared = snapshot.wal_ranges.iter().all(|range| {
                lineage.step_of_tli(range.tli).is_some_and(|step| step.begin <= range.begin && range.end <= step.end)
            });
            if shared {
                found.push(Chosen { generation, lsn, snapshot });
            }
        }
    }
    found.sort_by_key(|chosen| chosen.snapshot.end.lsn);
    Ok(found)
}

/// The last whole record below the fetcher's end.
pub async fn last_record(fetcher: &Fetcher, begin: Lsn) -> Result<Stop, PlanError> {
    let (size, end) = (fetcher.size(), fetcher.end());
    let mut bytes: Vec<u8> = Vec::new();
    let mut number = size.segment_of(Lsn(end.0.saturating_sub(1)));
    loop {
        let start = size.start_of(number);
        let Some(segment) = fetcher.on_lineage(number).await? else { return Err(PlanError::NoRecord(begin, end)) };
        let mut run = segment.bytes[..segment.filled as usize].to_vec();
        run.extend_from_slice(&bytes);
        bytes = run;
        let run = Run { size, system_id: fetcher.system_id(), start, bytes: &bytes };
        let found = walk::last_record(run, end)
            .map_err(|source| FetchError::Wal { object: format!("the archived WAL at {}", source.at()), source })?;
        match (found, number.previous()) {
            (Some((start, end)), _) => return Ok(Stop::Record { start, end }),
            (None, Some(previous)) if start > begin => number = previous,
            (None, _) => return Err(PlanError::NoRecord(begin, end)),
        }
    }
}

/// Where recovery to a moment stops, and a note if that is the end of the WAL.
async fn at_time(fetcher: &Fetcher, begin: Lsn, time: Timestamp) -> Result<(Stop, Option<String>), PlanError> {
    match newest_end(fetcher, begin, u64::MAX).await? {
        Some(newest) if newest > time => Ok((Stop::Time(time), None)),
        newest => {
            let last = newest.map_or_else(|| "none since the snapshot".to_owned(), |at| at.to_string());
            let note =
                format!("no transaction ended after {time} (the last: {last}), so everything there is is restored");
            Ok((last_record(fetcher, begin).await?, Some(note)))
        }
    }
}

/// When the newest transaction below the fetcher's end ended, looked for in so many segments; `None`: in none of them does one end.
async fn newest_end(fetcher: &Fetcher, begin: Lsn, segments: u64) -> Result<Option<Timestamp>, PlanError> {
    let size = fetcher.size();
    let mut number = size.segment_of(Lsn(fetcher.end().0.saturating_sub(1)));
    let mut next: Vec<u8> = Vec::new();
    // The newest segment with a transaction's end decides: clocks of backends differ by less than that.
    for _ in 0..segments {
        let Some(segment) = fetcher.on_lineage(number).await? else { return Ok(None) };
        let run = &segment.bytes[..segment.filled as usize];
        let newest = meanings(fetcher, number, run, &next)?.into_iter().filter_map(|(_, _, meaning)| match meaning {
            Meaning::End { at, .. } => Some(at),
            _ => None,
        });
        let newest = newest.max();
        if newest.is_some() || size.start_of(number) <= begin {
            return Ok(newest);
        }
        next = run.to_vec();
        let Some(previous) = number.previous() else { return Ok(None) };
        number = previous;
    }
    Ok(None)
}

/// What whoever restores from an archive alone must hear: what may be missing is what was committed later than this.
async fn archive_end(fetcher: &Fetcher, begin: Lsn, reached: Lsn) -> Result<String, PlanError> {
    let last = match newest_end(fetcher, begin, END_SEGMENTS).await? {
        Some(at) => format!("the last transaction in it ended at {at}"),
        None => "no transaction ended in the last of it".to_owned(),
    };
    Ok(format!(
        "this is all the archive holds, up to {reached}: {last}; what was committed later is not restored, though \
         safekeepers that still live may have it (--safekeepers)"
    ))
}

/// Start and end of the newest record that a name or an xid means.
async fn search(
    replica: &PostgresReplica,
    lineage: &Lineage,
    target: &Target,
    begin: Lsn,
    end: Lsn,
) -> Result<(Lsn, Lsn), PlanError> {
    let fetcher = Fetcher::new(replica.clone(), lineage.clone(), end);
    let size = fetcher.size();
    let mut next: Vec<u8> = Vec::new();
    let numbers = size.segment_of(begin).0..end.0.div_ceil(size.bytes());
    for number in numbers.rev().map(SegmentNumber) {
        let Some(segment) = fetcher.on_lineage(number).await? else { continue };
        let run = &segment.bytes[..segment.filled as usize];
        let found =
            meanings(&fetcher, number, run, &next)?.into_iter().rev().find(|(_, _, meaning)| match (target, meaning) {
                (Target::Name(wanted), Meaning::RestorePoint { name }) => wanted == name,
                (Target::Xid(wanted), Meaning::End { xid, .. }) => *wanted != 0 && wanted == xid,
                _ => false,
            });
        if let Some((start, end, _)) = found {
            return Ok((start, end));
        }
        next = run.to_vec();
    }
    Err(PlanError::NotFound(target.clone()))
}

/// What the records mean that begin in a segment; `next` is the segment above, in which the last of them may end.
fn meanings(
    fetcher: &Fetcher,
    number: SegmentNumber,
    run: &[u8],
    next: &[u8],
) -> Result<Vec<(Lsn, Lsn, Meaning)>, PlanError> {
    let size = fetcher.size();
    let start = size.start_of(number);
    // A record that means something ends soon after the segment does, or is one of the few longest.
    let bytes = if run.len() as u64 == size.bytes() { [run, next].concat() } else { run.to_vec() };
    let limit = size.start_of(number.next());
    let mut found = Vec::new();
    let run = Run { size, system_id: fetcher.system_id(), start, bytes: &bytes };
    walk::records(run, |record, meaning| {
        if record.start < limit && meaning != Meaning::Other {
            found.push((record.start, record.end, meaning));
        }
    })
    .map_err(|source| FetchError::Wal { object: format!("the archived WAL at {}", source.at()), source })?;
    Ok(found)
}
