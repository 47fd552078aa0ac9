//! Against the PostgreSQL that is installed here: attach, stream, answer, every judgement and every error that can be had from it.

use crate::*;
use lsn::{Lsn, Tli};
use pg_conn::{ConnInfo, Connection, StartupExtra};
use pg_server::{Auth, FindOptions, InitOptions, Installation, Mode, Server, StartOptions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const REQUIRED: (&str, &str) = ("synchronous_standby_names", "seawall");

/// A server of its own in a folder of its own.
struct Postgres {
    server: Server,
    options: StartOptions,
    _folder: TempDir,
}

impl Postgres {
    fn start(settings: &[(&str, &str)]) -> Postgres {
        let installation = Installation::find(&FindOptions::from_env()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let init =
            InitOptions { auth: Auth::Trust, wal_segment_size_mb: Some(1), sync: false, ..InitOptions::default() };
        let mut server = Server::initdb(&installation, &folder.path().join("data"), &init).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = StartOptions { settings: Postgres::settings(settings), ..StartOptions::on_port(port) };
        server.start(&options).unwrap();
        Postgres { server, options, _folder: folder }
    }

    fn settings(settings: &[(&str, &str)]) -> Vec<(String, String)> {
        let small = [
            ("shared_buffers", "8MB"),
            ("max_connections", "20"),
            ("restart_after_crash", "off"),
            ("autovacuum", "off"),
        ];
        small.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn set(&self, settings: &[(&str, &str)]) {
        self.server.configure(&Postgres::settings(settings)).unwrap();
        self.server.reload().unwrap();
    }

    fn restart(&mut self, settings: &[(&str, &str)]) {
        self.server.stop(Mode::Fast, Duration::from_secs(30)).unwrap();
        self.options.settings = Postgres::settings(settings);
        self.server.start(&self.options).unwrap();
    }

    fn conninfo(&self, more: &str) -> ConnInfo {
        format!("host=127.0.0.1 port={} user=postgres {more}", self.options.port).parse().unwrap()
    }

    fn attaching(&self) -> Options {
        Options::new(self.conninfo(""))
    }

    async fn sql(&self) -> Connection {
        let extra = StartupExtra { dbname: Some("postgres".to_owned()), ..StartupExtra::default() };
        pg_conn::connect(&self.conninfo(""), &extra).await.unwrap()
    }

    async fn run(&self, commands: &str) {
        self.sql().await.simple_query(commands).await.unwrap();
    }
}

/// Attached, with the slot made and the stream started.
async fn streaming(options: &Options) -> Result<(Facts, Checks, WalStream), Error> {
    let mut primary = attach(options).await?;
    let slot = primary.create_slot().await?;
    let from = primary.facts.segment_size.start_of_segment_at(slot.restart_lsn.unwrap());
    let stream = primary.walsender.start_stream(from, primary.facts.tli).await?;
    Ok((primary.facts, primary.checks, stream))
}

/// Reads the stream until it has brought everything below `end`.
async fn receive(stream: &mut WalStream, end: Lsn) {
    while stream.position() < end {
        let Event::Wal { begin, bytes, .. } = stream.recv().await.unwrap() else { continue };
        assert_eq!(begin.checked_add(bytes.len() as u64).unwrap(), stream.position());
    }
}

/// Asks again until the answer will do; the reload of a setting takes its time.
async fn eventually(checks: &mut Checks, what: &str, accept: impl Fn(&Settings) -> bool) -> Settings {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let settings = checks.read().await.unwrap();
        if accept(&settings) {
            return settings;
        }
        assert!(Instant::now() < deadline, "never {what}: {settings:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn observer(facts: &Facts) -> Observer<'_> {
    Observer {
        application_name: "seawall",
        slot: "seawall",
        walsender_pid: Some(facts.walsender_pid),
        commit: None,
        counts_standbys: false,
    }
}

fn codes(settings: &Settings, facts: &Facts) -> Vec<&'static str> {
    assess(settings, &observer(facts)).reasons.iter().map(|reason| reason.code).collect()
}

#[tokio::test]
async fn a_commit_waits_for_the_answer_and_a_shutdown_for_the_last_one() {
    let postgres = Postgres::start(&[REQUIRED]);
    let (facts, mut checks, mut stream) = streaming(&postgres.attaching()).await.unwrap();
    assert_eq!((facts.tli, facts.segment_size.bytes()), (Tli(1), 1 << 20));
    receive(&mut stream, facts.flush_lsn).await;

    let settings = checks.prove(&facts).await.unwrap();
    assert_eq!(settings.slot.as_ref().unwrap().active_pid, Some(facts.walsender_pid));
    let end = stream.position();
    // Non-zero, so that we count; not above the end, so that nothing is released.
    stream.answer(end, end, Lsn::INVALID).await.unwrap();

    let mut client = postgres.sql().await;
    let commit = tokio::spawn(async move { client.simple_query("CREATE TABLE t (n int)").await.unwrap() });
    let mut watcher = postgres.sql().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while watcher.simple_query(waiting).await.unwrap()[0].text(0) != Some("1") {
        assert!(Instant::now() < deadline, "the commit never waited");
        // The stream must be read meanwhile, or the WAL of the commit never arrives.
        let _ = tokio::time::timeout(Duration::from_millis(20), stream.recv()).await;
    }
    assert!(!commit.is_finished());
    let flushed = checks.read().await.unwrap().flush_lsn.unwrap();
    receive(&mut stream, flushed).await;
    assert!(!commit.is_finished());
    stream.answer(flushed, flushed, Lsn::INVALID).await.unwrap();
    commit.await.unwrap();
    assert_eq!(codes(&checks.prove(&facts).await.unwrap(), &facts), Vec::<&str>::new());

    let mut server = postgres.server;
    let stopped = tokio::task::spawn_blocking(move || server.stop(Mode::Fast, Duration::from_secs(60)));
    assert!(matches!(checks.ended().await, Error::ShuttingDown));
    loop {
        match stream.recv().await.unwrap() {
            Event::Shutdown => break,
            // Asked for a sign of life, the server waits until everything it has sent is acknowledged.
            _ => {
                let end = stream.position();
                stream.answer(end, end, Lsn::INVALID).await.unwrap();
            }
        }
    }
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn every_reason_to_be_unprotected_is_seen() {
    let postgres = Postgres::start(&[REQUIRED]);
    let (facts, mut checks, _stream) = streaming(&postgres.attaching()).await.unwrap();
    assert_eq!(codes(&checks.prove(&facts).await.unwrap(), &facts), Vec::<&str>::new());

    for (name, value, code) in [
        ("synchronous_standby_names", "", "synchronous-standby-names"),
        ("synchronous_standby_names", "*", "synchronous-standby-names"),
        ("synchronous_standby_names", "FIRST 1 (seawall, other)", "synchronous-standby-names"),
        ("synchronous_commit", "off", "synchronous-commit"),
        ("synchronous_commit", "local", "synchronous-commit"),
        ("fsync", "off", "fsync"),
        ("max_slot_wal_keep_size", "1000", "slot-size-limit"),
    ] {
        postgres.set(&[REQUIRED, (name, value)]);
        eventually(&mut checks, code, |settings| codes(settings, &facts) == [code]).await;
    }
    postgres.set(&[REQUIRED]);
    eventually(&mut checks, "protected again", |settings| codes(settings, &facts).is_empty()).await;

    let twin = Options { slot: "twin".to_owned(), application_name: "SEAWALL".to_owned(), ..postgres.attaching() };
    let (_, _, twin) = streaming(&twin).await.unwrap();
    eventually(&mut checks, "name taken", |settings| codes(settings, &facts) == ["name-taken"]).await;
    twin.close().await;
    eventually(&mut checks, "protected again", |settings| codes(settings, &facts).is_empty()).await;

    postgres.set(&[("synchronous_standby_names", "FIRST 2 (seawall, b)")]);
    let named =
        |slot: &str| Options { slot: slot.to_owned(), application_name: "b".to_owned(), ..postgres.attaching() };
    let (_, _, _one) = streaming(&named("one")).await.unwrap();
    let (_, _, _two) = streaming(&named("two")).await.unwrap();
    eventually(&mut checks, "shared name", |settings| codes(settings, &facts) == ["standby-name-shared"]).await;
}

#[tokio::test]
async fn a_restart_another_stream_and_a_lost_slot_are_noticed() {
    let mut postgres = Postgres::start(&[REQUIRED]);
    let (facts, mut checks, stream) = streaming(&postgres.attaching()).await.unwrap();
    assert!(matches!(streaming(&postgres.attaching()).await, Err(Error::SlotBusy(_))));
    let other = Facts { walsender_pid: facts.walsender_pid + 1, ..facts.clone() };
    assert!(matches!(checks.prove(&other).await, Err(Error::DifferentServers(_))));
    stream.close().await;
    eventually(&mut checks, "slot free", |settings| settings.slot.as_ref().unwrap().active_pid.is_none()).await;

    // Nobody keeps the slot from being left behind now.
    postgres.set(&[("max_slot_wal_keep_size", "1")]);
    eventually(&mut checks, "limit", |settings| settings.max_slot_wal_keep_size == 1).await;
    for _ in 0..6 {
        postgres.run("SELECT pg_logical_emit_message(false, '', repeat('x', 100000)), pg_switch_wal()").await;
        postgres.run("CHECKPOINT").await;
    }
    let settings = eventually(&mut checks, "lost", |settings| settings.slot.as_ref().unwrap().is_lost()).await;
    assert!(codes(&settings, &facts).contains(&"slot-lost"));
    let primary = attach(&postgres.attaching()).await.unwrap();
    let lost = primary.walsender.start_stream(primary.facts.flush_lsn, Tli(1)).await;
    assert!(matches!(lost, Err(Error::SlotLost(_))), "{lost:?}");

    // Another slot asks for the first segment, which is gone by now.
    let fresh = Options { slot: "fresh".to_owned(), ..postgres.attaching() };
    let mut primary = attach(&fresh).await.unwrap();
    primary.create_slot().await.unwrap();
    let mut stream = primary.walsender.start_stream(Lsn(1 << 20), Tli(1)).await.unwrap();
    assert!(matches!(stream.recv().await, Err(Error::WalRemoved(_))));

    postgres.restart(&[]);
    let again = attach(&fresh).await.unwrap();
    assert_eq!(again.facts.system_id, facts.system_id);
    assert_ne!(again.facts.started_at, facts.started_at);
}

#[tokio::test]
async fn what_the_role_may_not_do_is_said() {
    let postgres = Postgres::start(&[("max_replication_slots", "1"), ("max_wal_senders", "1")]);
    postgres
        .run(
            "CREATE ROLE plain LOGIN; CREATE ROLE repl LOGIN REPLICATION; ALTER ROLE repl SET synchronous_commit = off",
        )
        .await;
    postgres.run("CREATE ROLE seawall LOGIN REPLICATION; GRANT pg_monitor TO seawall").await;
    let role = |name: &str| Options::new(postgres.conninfo(&format!("user={name}")));
    assert!(matches!(attach(&role("plain")).await, Err(Error::NoReplicationPrivilege(_))));
    assert!(matches!(attach(&role("nobody")).await, Err(Error::Auth(_))));

    let primary = attach(&role("repl")).await.unwrap();
    let codes = codes(&primary.settings, &primary.facts);
    assert!(codes.contains(&"unverified") && codes.contains(&"synchronous-commit"), "{codes:?}");
    drop(primary);

    // The walsender of the connection just dropped may linger for a moment.
    let deadline = Instant::now() + Duration::from_secs(20);
    let primary = loop {
        match attach(&role("seawall")).await {
            Ok(primary) => break primary,
            Err(Error::NoFreeWalsender) => assert!(Instant::now() < deadline),
            Err(other) => panic!("{other}"),
        }
    };
    let assessment = assess(&primary.settings, &observer(&primary.facts));
    assert!(
        assessment.reasons.iter().all(|reason| !["unverified", "synchronous-commit"].contains(&reason.code)),
        "{assessment:#?}"
    );
    assert!(
        assessment.warnings.iter().any(|warning| warning.code == "role-settings" && warning.text.contains("role repl"))
    );
    assert_eq!((primary.settings.free_slots, primary.settings.slot), (1, None));
    assert!(matches!(attach(&role("seawall")).await, Err(Error::NoFreeWalsender)));
    drop(primary.walsender);

    postgres.run("SELECT pg_create_physical_replication_slot('other')").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = loop {
        match attach(&role("seawall")).await {
            Ok(mut primary) => break primary.create_slot().await.unwrap_err(),
            Err(_) => assert!(Instant::now() < deadline),
        }
    };
    assert!(matches!(error, Error::NoFreeSlot), "{error}");
}

#[tokio::test]
async fn servers_that_are_no_primary_to_stream_from() {
    let mut postgres = Postgres::start(&[]);
    postgres.restart(&[("wal_level", "minimal"), ("max_wal_senders", "0")]);
    assert!(matches!(attach(&postgres.attaching()).await, Err(Error::WalLevel(level)) if level == "minimal"));

    postgres.restart(&[]);
    postgres.server.stop(Mode::Fast, Duration::from_secs(30)).unwrap();
    let error = attach(&postgres.attaching()).await.unwrap_err();
    assert!(matches!(error, Error::Connect(_)) && !error.needs_operator(), "{error}");

    std::fs::write(postgres.server.data_dir().join("standby.signal"), "").unwrap();
    postgres.server.start(&postgres.options).unwrap();
    let error = attach(&postgres.attaching()).await.unwrap_err();
    assert!(matches!(error, Error::NotPrimary { .. }), "{error}");
    // Of two hosts the one that answered is named.
    let two = format!("host=127.0.0.1,127.0.0.1 port=1,{} user=postgres", postgres.options.port);
    assert!(matches!(attach(&Options::new(two.parse().unwrap())).await, Err(Error::NotPrimary { .. })));
}
