//! Base backups of a real server: what arrives is what lies in its data directory, whatever the version.

use super::*;
use backup_format::{Checksum, ChecksumAlgorithm, page};
use pg_conn::{Connection, StartupExtra};
use pg_server::{FindOptions, InitOptions, Installation, Mode, Server, StartOptions};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Postgres {
    server: Server,
    options: StartOptions,
    folder: TempDir,
}

/// What a backup brought.
#[derive(Debug, Default)]
struct Copy {
    directories: Vec<String>,
    files: BTreeMap<String, Vec<u8>>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn small() -> Vec<(String, String)> {
    let settings = [("shared_buffers", "8MB"), ("autovacuum", "off"), ("fsync", "off"), ("log_timezone", "Asia/Tokyo")];
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Postgres {
    /// A server with page checksums and a tablespace `space` that holds table `spaced`.
    async fn start() -> Postgres {
        let installation = Installation::find(&FindOptions::from_env()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let init =
            InitOptions { wal_segment_size_mb: Some(1), page_checksums: true, sync: false, ..InitOptions::default() };
        let mut server = Server::initdb(&installation, &folder.path().join("data"), &init).unwrap();
        let options = StartOptions { settings: small(), ..StartOptions::on_port(free_port()) };
        server.start(&options).unwrap();
        let space = folder.path().join("space");
        fs::create_dir(&space).unwrap();
        server.runs_as().own(&space).unwrap();
        let postgres = Postgres { server, options, folder };
        postgres.run(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display())).await;
        postgres.run("CREATE TABLE plain AS SELECT i, repeat('x', 100) AS t FROM generate_series(1, 20000) i").await;
        postgres.run("CREATE TABLE spaced TABLESPACE space AS SELECT i FROM generate_series(1, 1000) i").await;
        postgres
    }

    fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.options.port)
    }

    fn backup(&self) -> BackupOptions {
        BackupOptions::new(self.conninfo().parse().unwrap())
    }

    async fn sql(&self) -> Connection {
        let extra = StartupExtra { dbname: Some("postgres".to_owned()), ..StartupExtra::default() };
        pg_conn::connect(&self.conninfo().parse().unwrap(), &extra).await.unwrap()
    }

    async fn run(&self, command: &str) {
        self.sql().await.simple_query(command).await.unwrap();
    }

    async fn ask(&self, query: &str) -> String {
        self.sql().await.simple_query(query).await.unwrap()[0].text(0).unwrap().to_owned()
    }

    /// The file of a relation's first segment.
    async fn file_of(&self, relation: &str) -> (String, PathBuf) {
        let path = self.ask(&format!("SELECT pg_relation_filepath('{relation}')")).await;
        (path.clone(), self.server.data_dir().join(path))
    }
}

async fn take(options: &BackupOptions) -> Result<(BackupFacts, Copy, Finished), BackupError> {
    let mut backup = BaseBackup::start(options).await?;
    let facts = backup.facts().clone();
    let mut copy = Copy::default();
    let mut open: Option<(String, u64)> = None;
    while let Some(item) = backup.next_item().await? {
        match item {
            Item::Directory { path, .. } => copy.directories.push(path.to_string()),
            Item::File { path, size, mode } => {
                assert_eq!(mode & 0o600, 0o600, "{path}");
                assert!(open.take().is_none_or(|(path, size)| copy.files[&path].len() as u64 == size));
                copy.files.insert(path.to_string(), Vec::new());
                open = Some((path.to_string(), size));
            }
            Item::Data(bytes) => {
                let (path, _) = open.as_ref().unwrap();
                copy.files.get_mut(path).unwrap().extend_from_slice(&bytes);
            }
        }
    }
    let finished = backup.finish().await?;
    Ok((facts, copy, finished))
}

/// Puts a copy where a server can start from it, its tablespaces beside it.
fn lay_out(copy: &Copy, facts: &BackupFacts, folder: &Path) -> PathBuf {
    let data = folder.join("restored");
    fs::DirBuilder::new().create(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    let mut map = backup_format::TablespaceMap::default();
    for space in &facts.tablespaces {
        let place = folder.join(format!("space-{}", space.oid));
        fs::create_dir_all(&place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(&place, data.join(format!("pg_tblspc/{}", space.oid))).unwrap();
        map.0.push((space.oid, place.display().to_string()));
    }
    for directory in &copy.directories {
        fs::create_dir_all(data.join(directory)).unwrap();
    }
    for (path, content) in &copy.files {
        let content = if path == "tablespace_map" { &map.to_bytes() } else { content };
        let path = data.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    for entry in fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.file_name() != "data") {
        own_all(&entry.path());
    }
    data
}

fn own_all(path: &Path) {
    let Some(run_as) = pg_server::RunAs::choose() else { return };
    let _ = run_as.own(path);
}

#[tokio::test]
async fn a_backup_starts_as_a_server_with_everything_in_it() {
    let postgres = Postgres::start().await;
    let before = SystemTime::now();
    let options = BackupOptions { include_wal: true, label: "a 'label'".into(), ..postgres.backup() };
    let (facts, copy, finished) = take(&options).await.unwrap();

    assert_eq!(facts.segment_size.bytes(), 1 << 20);
    assert!(facts.page_checksums && facts.begin.lsn < finished.end.lsn);
    assert_eq!(facts.tablespaces.len(), 1);
    let oid = facts.tablespaces[0].oid;
    assert!(copy.files.keys().any(|path| path.starts_with(&format!("pg_tblspc/{oid}/PG_"))), "{:?}", copy.files.keys());
    for name in ["backup_label", "tablespace_map", "global/pg_control", "PG_VERSION"] {
        assert!(copy.files.contains_key(name), "{name}");
    }
    assert!(copy.directories.iter().any(|path| path == "pg_wal/archive_status"), "{:?}", copy.directories);
    assert_eq!(finished.files, copy.files.len() as u64);
    assert_eq!(finished.bytes, copy.files.values().map(|content| content.len() as u64).sum::<u64>());
    assert!(facts.estimated_bytes > finished.bytes / 2, "{} {}", facts.estimated_bytes, finished.bytes);
    assert!(!finished.from_standby && finished.damage.is_none());
    let after = SystemTime::now() + Duration::from_secs(4);
    assert!(finished.begin_time + Duration::from_secs(1) >= before && finished.end_time <= after);
    assert!(finished.end_time > finished.begin_time);
    assert_eq!(finished.wal_ranges[0].begin, facts.begin.lsn);
    let label = BackupLabel::parse(&copy.files["backup_label"]).unwrap();
    assert_eq!(label.label, "a 'label'");

    let data = lay_out(&copy, &facts, postgres.folder.path());
    let mut restored = Server::open(postgres.server.installation(), &data).unwrap();
    let options = StartOptions { settings: small(), ..StartOptions::on_port(free_port()) };
    restored.start(&options).unwrap();
    let restored = Postgres { server: restored, options, folder: tempfile::tempdir().unwrap() };
    for table in ["plain", "spaced"] {
        let sum = format!("SELECT count(*) || ' ' || sum(i) FROM {table}");
        assert_eq!(restored.ask(&sum).await, postgres.ask(&sum).await);
    }
}

#[tokio::test]
async fn a_standby_can_be_backed_up() {
    let postgres = Postgres::start().await;
    let (facts, copy, _) = take(&BackupOptions { include_wal: true, ..postgres.backup() }).await.unwrap();
    let data = lay_out(&copy, &facts, postgres.folder.path());
    fs::write(data.join("standby.signal"), "").unwrap();
    let mut server = Server::open(postgres.server.installation(), &data).unwrap();
    let mut settings = small();
    settings.push(("primary_conninfo".to_owned(), postgres.conninfo()));
    let options = StartOptions { settings, ..StartOptions::on_port(free_port()) };
    server.start(&options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let standby = Postgres { server, options, folder };

    postgres.run("INSERT INTO plain SELECT i, 'late' FROM generate_series(1, 500) i").await;
    let end = postgres.ask("SELECT pg_current_wal_flush_lsn()").await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while standby.ask(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")).await != "t" {
        assert!(Instant::now() < deadline, "never replayed {end}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (facts, copy, finished) = take(&BackupOptions { include_wal: true, ..standby.backup() }).await.unwrap();
    assert!(finished.from_standby && finished.damage.is_none());
    assert!(finished.end.lsn >= end.parse().unwrap(), "{:?}", finished.end);
    let data = lay_out(&copy, &facts, standby.folder.path());
    // What makes a standby of it is among its files.
    fs::remove_file(data.join("standby.signal")).unwrap();
    let mut restored = Server::open(postgres.server.installation(), &data).unwrap();
    let options = StartOptions { settings: small(), ..StartOptions::on_port(free_port()) };
    restored.start(&options).unwrap();
    let restored = Postgres { server: restored, options, folder: tempfile::tempdir().unwrap() };
    let sum = "SELECT count(*) || ' ' || sum(i) FROM plain";
    assert_eq!(restored.ask(sum).await, postgres.ask(sum).await);
}

#[tokio::test]
async fn every_manifest_checksum_holds() {
    let postgres = Postgres::start().await;
    for algorithm in [
        ChecksumAlgorithm::None,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Sha224,
        ChecksumAlgorithm::Sha256,
        ChecksumAlgorithm::Sha384,
        ChecksumAlgorithm::Sha512,
    ] {
        let options = BackupOptions { manifest_checksums: algorithm, ..postgres.backup() };
        let (_, copy, finished) = take(&options).await.unwrap();
        let manifest = Manifest::parse(&finished.manifest).unwrap();
        assert_eq!(manifest.files.len(), copy.files.len());
        assert!(manifest.files.iter().all(|file| file.checksum.algorithm() == algorithm));
        assert_eq!(
            manifest.files.iter().any(|file| file.checksum == Checksum::None),
            algorithm == ChecksumAlgorithm::None
        );
    }
}

#[tokio::test]
async fn its_files_are_read_as_the_server_wrote_them() {
    let mut postgres = Postgres::start().await;
    let (facts, copy, _) = take(&postgres.backup()).await.unwrap();
    let control = ControlFile::parse(&copy.files["global/pg_control"]).unwrap();
    assert_eq!((control.system_id, control.tli, control.redo), (facts.system_id, facts.begin.tli, facts.begin.lsn));
    assert_eq!((control.state, control.page_size), (backup_format::DbState::InProduction, 8192));
    assert_eq!((control.segment_size, control.page_checksums), (facts.segment_size, true));
    assert_eq!(control.max_connections.to_string(), postgres.ask("SHOW max_connections").await);
    assert_eq!(control.max_locks_per_xact.to_string(), postgres.ask("SHOW max_locks_per_transaction").await);
    let label = BackupLabel::parse(&copy.files["backup_label"]).unwrap();
    assert!(label.checkpoint >= label.start && label.tli == facts.begin.tli);
    let map = backup_format::TablespaceMap::parse(&copy.files["tablespace_map"]).unwrap();
    assert_eq!(map.0, [(facts.tablespaces[0].oid, facts.tablespaces[0].location.clone())]);

    // The pages of a stopped server are all whole.
    postgres.server.stop(Mode::Fast, Duration::from_secs(30)).unwrap();
    let mut checked = 0;
    for path in copy.files.keys() {
        let Some(first) = page::first_block(&DataPath::parse(path.as_str()).unwrap()) else { continue };
        let Ok(content) = fs::read(postgres.server.data_dir().join(path)) else { continue };
        for (block, bytes) in content.chunks_exact(page::PAGE_SIZE).enumerate() {
            let state = page::verify(bytes.first_chunk().unwrap(), first + block as u32);
            assert!(!matches!(state, page::PageState::Wrong { .. }), "block {block} of {path}: {state:?}");
            checked += usize::from(state == page::PageState::Valid);
        }
    }
    assert!(checked > 500, "only {checked} pages");
    let control = fs::read(postgres.server.data_dir().join("global/pg_control")).unwrap();
    let control = ControlFile::parse(&control).unwrap();
    assert_eq!(control.state, backup_format::DbState::ShutDown);
}

#[tokio::test]
async fn a_flipped_page_is_reported() {
    let mut postgres = Postgres::start().await;
    let (name, file) = postgres.file_of("plain").await;
    postgres.server.stop(Mode::Fast, Duration::from_secs(30)).unwrap();
    let handle = fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
    let at = 3 * 8192 + 5000;
    let mut byte = [0];
    handle.read_exact_at(&mut byte, at).unwrap();
    handle.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    postgres.server.start(&postgres.options).unwrap();
    let (_, copy, finished) = take(&postgres.backup()).await.unwrap();
    let damage = finished.damage.expect("the server must have noticed");
    assert_eq!(damage.pages, [DamagedPage { path: name.clone(), block: 3 }]);
    assert!(!damage.message.is_empty() && copy.files.contains_key(&name));
}

#[tokio::test]
async fn wal_stays_until_the_pin_goes() {
    let postgres = Postgres::start().await;
    let (facts, _, finished) = take(&postgres.backup()).await.unwrap();
    let pin = finished.pin.unwrap();
    let slot = format!(
        "SELECT restart_lsn <= '{}' FROM pg_replication_slots WHERE slot_name = '{}'",
        facts.begin.lsn,
        pin.slot()
    );
    assert_eq!(postgres.ask(&slot).await, "t");
    for _ in 0..4 {
        postgres.run("INSERT INTO plain SELECT i, repeat('y', 100) FROM generate_series(1, 20000) i").await;
        postgres.run("CHECKPOINT").await;
    }
    let segment = facts.segment_size.file_name(facts.begin.tli, facts.segment_size.segment_of(facts.begin.lsn));
    let segment = postgres.server.data_dir().join("pg_wal").join(segment);
    assert!(segment.exists());
    pin.release().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while segment.exists() {
        assert!(Instant::now() < deadline, "{} is still there", segment.display());
        postgres.run("SELECT pg_switch_wal()").await;
        postgres.run("CHECKPOINT").await;
    }
}

#[tokio::test]
async fn refused_with_a_reason() {
    let postgres = Postgres::start().await;
    let options = BackupOptions { label: "two\nlines".into(), ..postgres.backup() };
    assert!(matches!(take(&options).await, Err(BackupError::Label)));
    let options = BackupOptions { max_rate: Some(31), ..postgres.backup() };
    assert!(matches!(take(&options).await, Err(BackupError::Rate(31))));
    postgres.run("CREATE ROLE reader LOGIN").await;
    let options = BackupOptions::new(format!("{} user=reader", postgres.conninfo()).parse().unwrap());
    let error = take(&options).await.unwrap_err();
    assert!(matches!(error, BackupError::Server(Error::NoReplicationPrivilege(_) | Error::Auth(_))), "{error}");
}

#[tokio::test]
async fn a_server_that_dies_leaves_an_error() {
    let mut postgres = Postgres::start().await;
    let options = BackupOptions { max_rate: Some(1024), ..postgres.backup() };
    let mut backup = BaseBackup::start(&options).await.unwrap();
    let mut seen = 0;
    while seen < 50 {
        backup.next_item().await.unwrap().unwrap();
        seen += 1;
    }
    postgres.server.crash().unwrap();
    let error = loop {
        match backup.next_item().await {
            Ok(item) => assert!(item.is_some(), "it must not look complete"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BackupError::Server(_)), "{error}");
}

#[tokio::test]
async fn a_backup_given_up_early_is_no_backup() {
    let postgres = Postgres::start().await;
    let mut backup = BaseBackup::start(&postgres.backup()).await.unwrap();
    backup.next_item().await.unwrap().unwrap();
    assert!(backup.finish().await.is_err());
}
