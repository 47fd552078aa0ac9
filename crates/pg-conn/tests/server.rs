//! Against a real PostgreSQL: methods of authentication, TLS, replication commands, a COPY. Skipped, with a word, where no
//! server is installed.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use pg_conn::{ConnInfo, ConnectError, Connection, Error, Failure, StartupExtra, connect};
use pq_proto::SqlState;
use pq_proto::backend::BackendMessage;
use pq_proto::frontend;
use pq_proto::replication::ServerCopy;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const HBA: &str = "
local all postgres trust
local replication postgres trust
hostssl all tlsonly 127.0.0.1/32 scram-sha-256
hostnossl all tlsonly 127.0.0.1/32 reject
host all,replication scram 127.0.0.1/32 scram-sha-256
host all md5user 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
";

/// One server of its own, stopped and removed when dropped.
struct Server {
    directory: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not a plain kill, which would leave its children to find out by themselves.
        let mut stop = command(binaries().unwrap().join("pg_ctl"), self.directory.path());
        stop.args(["-D", "data", "-m", "immediate", "stop"]).stdout(Stdio::null());
        if stop.status().map_or(true, |status| !status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

fn binaries() -> Option<PathBuf> {
    let found = std::env::var_os("PG_BIN").map_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin"), PathBuf::from);
    if found.join("postgres").exists() {
        return Some(found);
    }
    eprintln!("no PostgreSQL in {}; set PG_BIN; the test is skipped", found.display());
    None
}

/// User and group `postgres`, if we are root: PostgreSQL refuses to run as root.
fn other_user() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn command(program: impl AsRef<Path>, directory: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    command.current_dir(directory).stdin(Stdio::null()).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
    if let Some((uid, gid)) = other_user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn run(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Server {
    async fn start() -> Option<Server> {
        let bin = binaries()?;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((uid, gid)) = other_user() {
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = command(bin.join("initdb"), path);
        initdb.args(["-D", "data", "-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]);
        run(initdb);
        let mut openssl = command("openssl", path);
        openssl.args("req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1".split(' '));
        openssl.args("-keyout data/server.key -out data/server.crt -subj /CN=localhost".split(' '));
        openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
        run(openssl);
        std::fs::set_permissions(path.join("data/server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(path.join("data/pg_hba.conf"), HBA).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut postgres = command(bin.join("postgres"), path);
        postgres.args(["-D", "data", "-k", path.to_str().unwrap(), "-p", &port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "ssl=on", "fsync=off", "max_wal_senders=4"] {
            postgres.args(["-c", setting]);
        }
        let process = postgres.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { directory, port, process };
        let mut admin = server.admin().await;
        for query in [
            "CREATE ROLE scram LOGIN REPLICATION PASSWORD 'geheim'",
            "CREATE ROLE tlsonly LOGIN PASSWORD 'geheim'",
            "CREATE ROLE clear LOGIN PASSWORD 'geheim'",
            "SET password_encryption = 'md5'",
            "CREATE ROLE md5user LOGIN PASSWORD 'geheim'",
        ] {
            admin.simple_query(query).await.unwrap();
        }
        admin.close().await;
        Some(server)
    }

    fn socket(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.directory.path().display(), self.port)
    }

    fn tcp(&self, rest: &str) -> String {
        format!("host=localhost hostaddr=127.0.0.1 port={} dbname=postgres {rest}", self.port)
    }

    fn certificate(&self) -> String {
        self.directory.path().join("data/server.crt").display().to_string()
    }

    /// Waits until the server takes connections.
    async fn admin(&self) -> Connection {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match open(&self.socket()).await {
                Ok(connection) => return connection,
                Err(error) if Instant::now() > deadline => panic!("the server did not start: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

async fn open(text: &str) -> Result<Connection, ConnectError> {
    connect(&text.parse::<ConnInfo>().unwrap(), &StartupExtra::default()).await
}

fn last_failure(error: ConnectError) -> Failure {
    match error {
        ConnectError::Hosts(mut errors) => errors.pop().unwrap().failure,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_real_server() {
    let Some(server) = Server::start().await else { return };
    passwords(&server).await;
    encryption(&server).await;
    hosts(&server).await;
    queries(&server).await;
    replication(&server).await;
}

async fn passwords(server: &Server) {
    for user in ["scram", "md5user", "clear"] {
        for sslmode in ["disable", "require"] {
            let right = server.tcp(&format!("user={user} password=geheim sslmode={sslmode}"));
            let connection = open(&right).await.unwrap();
            assert_eq!(connection.is_encrypted(), sslmode == "require");
            assert!(connection.backend_pid().is_some() && connection.peer_addr().is_some());
            let wrong = open(&server.tcp(&format!("user={user} password=falsch sslmode={sslmode}"))).await.unwrap_err();
            assert_eq!(wrong.sqlstate(), Some(SqlState::INVALID_PASSWORD), "{wrong}");
            assert!(wrong.to_string().contains("check user and password"), "{wrong}");
            let none = open(&server.tcp(&format!("user={user} sslmode={sslmode}"))).await.unwrap_err();
            assert!(matches!(last_failure(none), Failure::Auth(_)));
        }
    }
    let passfile = server.directory.path().join("pgpass");
    std::fs::write(&passfile, format!("localhost:{}:*:scram:geheim\n", server.port)).unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    open(&server.tcp(&format!("user=scram passfile={}", passfile.display()))).await.unwrap();
    let refused = open(&server.tcp("user=tlsonly password=geheim sslmode=disable")).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some(SqlState::INVALID_AUTHORIZATION));
    assert!(refused.to_string().contains("add a line"), "{refused}");
}

async fn encryption(server: &Server) {
    let root = format!("sslrootcert={}", server.certificate());
    for (settings, works) in [
        ("sslmode=prefer".to_owned(), true),
        ("sslmode=require".to_owned(), true),
        (format!("sslmode=require {root}"), true),
        (format!("sslmode=verify-ca {root}"), true),
        (format!("sslmode=verify-full {root}"), true),
        (format!("sslmode=verify-ca {root} host=db1"), true),
        (format!("sslmode=verify-full {root} host=db1"), false),
        (format!("sslmode=verify-full {root} host=127.0.0.1"), false),
    ] {
        match open(&server.tcp(&format!("user=tlsonly password=geheim {settings}"))).await {
            Ok(connection) => assert!(works && connection.is_encrypted(), "{settings}"),
            Err(error) => {
                assert!(!works, "{settings}: {error}");
                assert!(matches!(last_failure(error), Failure::Tls(_)), "{settings}");
            }
        }
    }
    let missing = open(&server.tcp("user=tlsonly sslmode=verify-full")).await.unwrap_err();
    assert!(matches!(missing, ConnectError::Tls(_)));
    let stranger = server.directory.path().join("other.crt");
    let mut openssl = command("openssl", server.directory.path());
    openssl.args("req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1".split(' '));
    openssl.args("-keyout other.key -out other.crt -subj /CN=localhost".split(' '));
    run(openssl);
    let settings = format!("user=tlsonly password=geheim sslmode=verify-ca sslrootcert={}", stranger.display());
    assert!(matches!(last_failure(open(&server.tcp(&settings)).await.unwrap_err()), Failure::Tls(_)));
}

async fn hosts(server: &Server) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let directory = server.directory.path().display();
    let both = format!("host=127.0.0.1,{directory} port={free},{} user=postgres", server.port);
    let connection = open(&both).await.unwrap();
    assert!(connection.host().starts_with('/') && connection.peer_addr().is_none());
    let nobody = open(&format!("host=127.0.0.1 port={free} user=x sslmode=disable")).await.unwrap_err();
    assert!(nobody.to_string().contains("is the server running"), "{nobody}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().port();
    let silent = open(&format!("host=127.0.0.1 port={silent} user=x connect_timeout=1")).await.unwrap_err();
    assert!(matches!(last_failure(silent), Failure::Timeout(_)));
    for (target, works) in [("read-write", true), ("primary", true), ("standby", false), ("read-only", false)] {
        let result = open(&format!("{} target_session_attrs={target}", server.socket())).await;
        assert_eq!(result.is_ok(), works, "{target}");
    }
    assert!(matches!(open("host=127.0.0.1").await, Err(ConnectError::NoUser)));
}

async fn queries(server: &Server) {
    let mut connection = server.admin().await;
    let version = connection.parameters().get("server_version").unwrap().to_owned();
    assert!(version.starts_with(&connection.parameters().server_major().unwrap().to_string()));
    let rows = connection.simple_query("SELECT 1 AS a, NULL AS b, 'ö' AS c; SELECT 2 AS d").await.unwrap();
    assert_eq!((rows[0].get("a"), rows[0].get("b"), rows[0].get("c")), (Some("1"), None, Some("ö")));
    assert_eq!((rows[1].get("d"), rows[1].get("a"), rows[1].len()), (Some("2"), None, 1));
    let error = connection.simple_query("SELECT 1/0").await.unwrap_err();
    assert_eq!(error.sqlstate(), SqlState::new("22012"));
    connection.simple_query("SET application_name = 'renamed'").await.unwrap();
    assert_eq!(connection.parameters().get("application_name"), Some("renamed"));
    assert!(connection.simple_query("").await.unwrap().is_empty());
    let fatal = connection.simple_query("SELECT pg_terminate_backend(pg_backend_pid())").await.unwrap_err();
    assert_eq!(fatal.sqlstate(), Some(SqlState::ADMIN_SHUTDOWN));

    let mut connection = server.admin().await;
    let large = connection.simple_query("SELECT repeat('x', 1000000) FROM generate_series(1, 20)").await;
    assert!(matches!(large, Err(Error::TooLarge(_))));
    assert!(connection.is_closed());

    let mut connection = server.admin().await;
    let slow = connection.simple_query("SELECT pg_sleep(60)");
    assert!(tokio::time::timeout(Duration::from_millis(50), slow).await.is_err());
    assert!(matches!(connection.simple_query("SELECT 1").await, Err(Error::Abandoned)));
}

async fn replication(server: &Server) {
    server.admin().await.simple_query("CREATE TABLE t AS SELECT generate_series(1, 100000)").await.unwrap();
    for text in [server.socket(), server.tcp("user=scram password=geheim sslmode=require")] {
        let extra = StartupExtra {
            replication: true,
            application_name: Some("seawall".into()),
            options: Some("-c wal_sender_timeout=10s".into()),
            dbname: None,
        };
        let mut connection = connect(&text.parse().unwrap(), &extra).await.unwrap();
        let timeout = connection.simple_query("SHOW wal_sender_timeout").await.unwrap();
        assert_eq!(timeout[0].text(0), Some("10s"));
        let system = connection.simple_query("IDENTIFY_SYSTEM").await.unwrap();
        assert_eq!((system[0].get("timeline"), system[0].get("dbname"), system[0].len()), (Some("1"), None, 4));
        let end: lsn::Lsn = system[0].get("xlogpos").unwrap().parse().unwrap();
        let start = lsn::Lsn(1 << 24);
        frontend::encode_query(&format!("START_REPLICATION {start} TIMELINE 1"), connection.writer().buffer()).unwrap();
        connection.writer().flush().await.unwrap();
        let (mut read, mut write) = connection.split();
        assert_eq!(read.recv().await.unwrap(), BackendMessage::CopyBothResponse);
        let mut position = start;
        while position < end {
            let BackendMessage::CopyData(payload) = read.recv().await.unwrap() else { panic!("not CopyData") };
            if let ServerCopy::XLogData(data) = ServerCopy::decode(payload).unwrap() {
                assert_eq!(data.begin, position);
                position = position.saturating_add(data.data.len() as u64);
            }
        }
        frontend::encode_copy_done(write.buffer());
        write.flush().await.unwrap();
        let mut tags = Vec::new();
        loop {
            match read.recv().await.unwrap() {
                BackendMessage::CommandComplete(tag) => tags.push(tag),
                BackendMessage::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        assert_eq!(tags, ["START_STREAMING", "START_REPLICATION"]);
        assert!(!read.is_closed() && !write.is_closed() && write.queued() == 0);
    }
}
