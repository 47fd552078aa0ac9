//! An archive in memory with real WAL framing and real chunks, and what it should restore to.

use backup_format::chunk::Packer;
use backup_format::{Blob, CONTROL_FILE_SIZE, Chunk, DataPath, LsnOnTli, SNAPSHOT_VERSION, Snapshot, WalRange};
use bytes::Bytes;
use jiff::Timestamp;
use lsn::{Lsn, SegmentSize, SystemId, Tli};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use replica_client::{
    Archive, Codec, CommitTimes, Era, EraName, Generation, Parent, Part, PieceName, PostgresReplica, RetryPolicy, Store,
};
use restore::postgres::execute::{self, Options, Restored};
use restore::postgres::fetch::Fetcher;
use restore::postgres::lay_out::Progress;
use restore::postgres::plan::{self, Plan, QuorumEnd, Request};
use restore::postgres::recovery::Action;
use restore::postgres::target::Target;
use restore::postgres::verify;
use sha2::{Digest, Sha256};
use source::{Chunk as SourceChunk, Stream, Tail};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use wal_format::build::WalBuilder;
use wal_format::record;

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn size() -> SegmentSize {
    SegmentSize::new(MIB).unwrap()
}

/// Text of an error with its causes.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// Main data of a commit `seconds` after 2000.
pub(crate) fn commit_at(seconds: i64) -> Vec<u8> {
    let mut payload = vec![255, 8];
    payload.extend_from_slice(&(seconds * 1_000_000).to_le_bytes());
    payload
}

pub(crate) fn second(seconds: i64) -> Timestamp {
    Timestamp::from_second(946_684_800 + seconds).unwrap()
}

/// The archive, and the WAL it was made of.
pub(crate) struct Rig {
    pub(crate) store: Store,
    pub(crate) replica: PostgresReplica,
    pub(crate) root: Generation,
    pub(crate) wal: WalBuilder,
    /// Files of the snapshot.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) snapshot: Snapshot,
    pub(crate) folder: tempfile::TempDir,
}

impl Rig {
    /// WAL from segment 1 to the middle of segment 4, a commit every hundred records (at 1 s, 2 s, …), restore points `a` and `b`, and a
    /// snapshot that begins in segment 1 and ends in segment 2. Segments 1 and 2 are merged, the rest lies in pieces.
    pub(crate) async fn new() -> Rig {
        let mut wal = WalBuilder::new(size(), Lsn(MIB));
        let (mut seconds, mut count, mut begin, mut end) = (0, 0usize, None, None);
        let mut noise = StdRng::seed_from_u64(5);
        while wal.end() < Lsn(4 * MIB + MIB / 2) {
            count += 1;
            if count.is_multiple_of(100) {
                seconds += 1;
                wal.record_of(record::RMGR_TRANSACTION, 0, &commit_at(seconds));
            } else if count == 900 + 1 || count == 3000 + 1 {
                let mut point = vec![255, 72];
                point.extend_from_slice(&[0; 8]);
                point.extend_from_slice(if count < 1000 { b"a" } else { b"b" });
                point.resize(74, 0);
                wal.record_of(record::RMGR_XLOG, record::XLOG_RESTORE_POINT, &point);
            } else {
                // Half of it is bytes that nothing compresses, so that objects are large.
                let mut payload = vec![count as u8; 700 + count % 300];
                payload[..350].fill_with(|| noise.random());
                wal.record(&payload);
            }
            begin = begin.or((wal.end() >= Lsn(MIB + MIB / 4)).then(|| wal.end()));
            end = end.or((wal.end() >= Lsn(2 * MIB + MIB / 3)).then(|| (wal.end(), seconds)));
        }
        let (begin, (end, seconds)) = (begin.unwrap(), end.unwrap());
        let store = Store::memory().with_retry(RetryPolicy::none());
        let replica = Archive::new(store.clone(), Codec::plain()).claim(&era()).await.unwrap();
        let root = Generation::of_tli(0, Tli(1));
        replica.put_parent(root, Parent::Root).await.unwrap();
        let none = CommitTimes::default();
        for number in 1..=2 {
            let bytes = wal.slice(Lsn(number * MIB), Lsn((number + 1) * MIB)).to_vec();
            replica.put_piece(root, PieceName::segment(number), bytes.into(), none).await.unwrap();
        }
        // Pieces of every size, at record ends and elsewhere, the last to the end of the WAL.
        let mut at = 3 * MIB;
        while at < wal.end().0 {
            let next = (at + 150_000 + at % 7777).min(wal.end().0).min((at / MIB + 1) * MIB);
            let span = at % MIB..at % MIB + (next - at);
            let bytes = wal.slice(Lsn(at), Lsn(next)).to_vec();
            replica.put_piece(root, PieceName::of_segment(at / MIB, span), bytes.into(), none).await.unwrap();
            at = next;
        }
        let files = files(begin);
        let snapshot = put_snapshot(&replica, root, &files, begin, end, second(seconds)).await;
        Rig { store, replica, root, wal, files, snapshot, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn plan(&self, target: Target) -> Result<Plan, String> {
        self.plan_with(target, None).await
    }

    pub(crate) async fn plan_with(&self, target: Target, quorum: Option<&QuorumEnd>) -> Result<Plan, String> {
        let request = Request { target, generation: None };
        plan::plan(&self.replica, &request, quorum).await.map_err(|error| told(&error))
    }

    pub(crate) fn options(&self, name: &str) -> Options {
        Options {
            output: self.folder.path().join(name),
            overwrite: false,
            tablespaces: Vec::new(),
            parallelism: 3,
            program: PathBuf::from("/usr/bin/seawall"),
            replica: "memory://".to_owned(),
            identities: Vec::new(),
            action: Action::Promote,
        }
    }

    pub(crate) async fn execute(&self, plan: &Plan, name: &str) -> Result<Restored, String> {
        self.execute_with(plan, None, name).await
    }

    pub(crate) async fn execute_with(
        &self,
        plan: &Plan,
        tail: Option<&mut Rest>,
        name: &str,
    ) -> Result<Restored, String> {
        let options = self.options(name);
        execute::execute(&self.replica, plan, tail, &options, Default::default()).await.map_err(|error| told(&error))
    }

    /// Everything a validation does without a server: plan, walk, lay out, and every file a server would ask for.
    pub(crate) async fn prove(&self, name: &str) -> Result<(), String> {
        let plan = self.plan(Target::Latest).await?;
        let fetcher = Fetcher::new(self.replica.clone(), plan.lineage.clone(), plan.end);
        let begin = plan.chosen.snapshot.wal_begin();
        let walked = verify::walk(&fetcher, begin, |_| {}).await.map_err(|error| told(&error))?;
        if walked.end != self.wal.records().last().unwrap().end {
            return Err(format!("the archive ends at {}", walked.end));
        }
        for number in plan.numbers() {
            let segment = fetcher.on_lineage(number).await.map_err(|error| told(&error))?.unwrap();
            let (start, limit) = (size().start_of(number), size().start_of(number.next()).min(plan.end));
            assert_eq!(
                &segment.bytes[..segment.filled as usize],
                self.wal.slice(start, limit),
                "wrong bytes were delivered"
            );
        }
        let restored = self.execute(&plan, name).await?;
        self.same_files(&restored.directory);
        Ok(())
    }

    /// Fails unless the directory has the snapshot's files, byte for byte.
    pub(crate) fn same_files(&self, directory: &Path) {
        for (path, bytes) in self.files.iter().filter(|(path, _)| !path.ends_with(".conf")) {
            assert!(std::fs::read(directory.join(path)).unwrap() == *bytes, "{path} differs");
        }
    }
}

pub(crate) fn era() -> Era {
    Era {
        system_id: WalBuilder::SYSTEM_ID,
        name: EraName::parse("solo-1").unwrap(),
        segment_size: size(),
        server_version: 150_000,
        cluster: "main".to_owned(),
        previous: None,
    }
}

/// What the server's `pg_control` looks like as far as it is read.
fn control(system_id: SystemId) -> Vec<u8> {
    let mut bytes = vec![0; CONTROL_FILE_SIZE];
    bytes[..8].copy_from_slice(&system_id.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&1300u32.to_le_bytes());
    bytes[16] = 6;
    bytes[48] = 1;
    bytes[228..232].copy_from_slice(&size().as_u32().to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn files(begin: Lsn) -> Vec<(String, Vec<u8>)> {
    let label = format!(
        "START WAL LOCATION: {begin} (file {})\nCHECKPOINT LOCATION: {begin}\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
         START TIME: 2024-05-01 10:00:00 GMT\nLABEL: x\nSTART TIMELINE: 1\n",
        size().file_name(Tli(1), size().segment_of(begin))
    );
    let big: Vec<u8> = (0..300_000u32).map(|at| (at / 7 + at % 251) as u8).collect();
    vec![
        ("backup_label".to_owned(), label.into_bytes()),
        ("PG_VERSION".to_owned(), b"15\n".to_vec()),
        ("base/1/1259".to_owned(), big),
        ("base/1/2619".to_owned(), Vec::new()),
        ("base/1/1247".to_owned(), vec![9; 8192 * 5]),
        ("postgresql.conf".to_owned(), b"data_directory = '/elsewhere'\nport = 5433\n".to_vec()),
        ("postgresql.auto.conf".to_owned(), b"synchronous_standby_names = 'seawall'\nwork_mem = '4MB'\n".to_vec()),
        ("global/pg_control".to_owned(), control(WalBuilder::SYSTEM_ID)),
    ]
}

async fn put_snapshot(
    replica: &PostgresReplica,
    generation: Generation,
    files: &[(String, Vec<u8>)],
    begin: Lsn,
    end: Lsn,
    end_time: Timestamp,
) -> Snapshot {
    let mut packer = Packer::new(64 << 10);
    let mut packed = Vec::new();
    packer.directory(DataPath::parse("base/1").unwrap(), 0o700);
    packer.directory(DataPath::parse("pg_wal").unwrap(), 0o700);
    for (path, bytes) in files {
        packer.file(DataPath::parse(path.as_str()).unwrap(), 0o600, bytes.len() as u64);
        for piece in bytes.chunks(10_000) {
            packer.data(Bytes::copy_from_slice(piece));
            while let Some(full) = packer.poll() {
                packed.push(full);
            }
        }
    }
    packed.extend(packer.finish());
    let writer = replica.begin_snapshot(generation, begin).await.unwrap();
    let mut chunks = Vec::new();
    for (number, chunk) in packed.iter().enumerate() {
        let plain: Vec<u8> = chunk.bytes.concat();
        let number = number as u32;
        let stored = writer.put_part_bytes(Part::Chunk(number), plain.into()).await.unwrap();
        chunks.push(Chunk { number, length: stored.length, crc32c: stored.crc32c });
    }
    let manifest = manifest(files, begin, end);
    let stored = writer.put_part_bytes(Part::Manifest, manifest.into()).await.unwrap();
    let on = |lsn| LsnOnTli { lsn, tli: Tli(1) };
    let snapshot = Snapshot {
        version: SNAPSHOT_VERSION,
        system_id: WalBuilder::SYSTEM_ID,
        server_version: 150_000,
        segment_size: size(),
        begin: on(begin),
        end: on(end),
        wal_ranges: vec![WalRange { tli: Tli(1), begin, end }],
        begin_time: second(0),
        end_time,
        from_standby: false,
        label: "x".to_owned(),
        tablespaces: Vec::new(),
        damaged_pages: Vec::new(),
        chunks,
        files: files.len() as u64,
        bytes: files.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
        manifest: Blob { length: stored.length, crc32c: stored.crc32c },
    };
    snapshot.check().unwrap();
    writer.finish(&snapshot.to_json()).await.unwrap();
    snapshot
}

/// As the server writes it: CRC-32C, least significant byte first; for one file SHA-256, which has to be read back.
fn manifest(files: &[(String, Vec<u8>)], begin: Lsn, end: Lsn) -> Vec<u8> {
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let mut text = String::from("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n");
    for (at, (path, bytes)) in files.iter().enumerate() {
        let (algorithm, sum) = match path.as_str() {
            "base/1/1259" | "global/pg_control" => ("SHA256", hex(&Sha256::digest(bytes))),
            _ => ("CRC32C", hex(&crc32c::crc32c(bytes).to_le_bytes())),
        };
        let comma = if at == 0 { "" } else { ",\n" };
        write!(
            text,
            "{comma}{{ \"Path\": \"{path}\", \"Size\": {}, \"Last-Modified\": \"2024-05-01 10:00:00 GMT\", \"Checksum-Algorithm\": \"{algorithm}\", \"Checksum\": \"{sum}\" }}",
            bytes.len()
        )
        .unwrap();
    }
    write!(
        text,
        "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \"{begin}\", \"End-LSN\": \"{end}\" }}\n],\n"
    )
    .unwrap();
    let sum = hex(&Sha256::digest(text.as_bytes()));
    format!("{text}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
}

/// A quorum that has more than the archive.
pub(crate) struct Rest {
    pub(crate) wal: WalBuilder,
    pub(crate) end: Lsn,
}

/// There is nothing to go wrong.
#[derive(Debug, thiserror::Error)]
#[error("the quorum is gone")]
pub(crate) struct Gone;

impl Tail for Rest {
    type Error = Gone;
    type Stream = RestStream;

    async fn end(&mut self) -> Result<Lsn, Gone> {
        Ok(self.end)
    }

    async fn read(&mut self, from: Lsn, end: Lsn) -> Result<RestStream, Gone> {
        Ok(RestStream { wal: self.wal.clone(), at: from, end })
    }
}

pub(crate) struct RestStream {
    wal: WalBuilder,
    at: Lsn,
    end: Lsn,
}

impl Stream for RestStream {
    type Position = Lsn;
    type Error = Gone;

    async fn next_chunk(&mut self) -> Result<Option<SourceChunk<Lsn>>, Gone> {
        let next = self.end.min(self.at.saturating_add(77_777));
        if next <= self.at {
            return Ok(None);
        }
        let chunk = SourceChunk { begin: self.at, bytes: Bytes::copy_from_slice(self.wal.slice(self.at, next)) };
        self.at = next;
        Ok(Some(chunk))
    }
}

pub(crate) fn progress() -> std::sync::Arc<Progress> {
    Default::default()
}
