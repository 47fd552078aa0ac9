//! A real server through its life. These tests need an installed PostgreSQL.

use super::*;
use crate::{FindOptions, stop_survivor};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

fn installation() -> Installation {
    Installation::find(&FindOptions::from_env()).unwrap()
}

/// A folder PostgreSQL's user can enter. Servers are made deeper, below a folder that does not exist yet.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn options(dir: &Path) -> StartOptions {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    StartOptions { socket_dir: Some(dir.join("s")), ..StartOptions::on_port(port) }
}

fn init(dir: &Path) -> Server {
    let init = InitOptions { sync: false, wal_segment_size_mb: Some(1), ..InitOptions::default() };
    Server::initdb(&installation(), &dir.join("made/data"), &init).unwrap()
}

fn sql(server: &Server, options: &StartOptions, text: &str) -> String {
    let mut command = server.installation().command("psql", server.runs_as());
    let socket_dir = options.socket_dir.as_ref().unwrap();
    command.args([
        "-X",
        "-A",
        "-t",
        "-U",
        "postgres",
        "-d",
        "postgres",
        "-p",
        &options.port.to_string(),
        "-c",
        text,
        "-h",
    ]);
    let output = command.arg(socket_dir).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn setting(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn a_server_starts_takes_settings_and_stops() {
    let dir = folder();
    let mut server = init(dir.path());
    let mut options = options(dir.path());
    options.settings = vec![setting("work_mem", "5MB"), setting("cluster_name", "it's")];
    server.start(&options).unwrap();
    assert_eq!(
        sql(&server, &options, "select current_setting('work_mem'), current_setting('cluster_name')"),
        "5MB|it's"
    );
    assert_eq!(sql(&server, &options, "select current_setting('wal_segment_size')"), "1MB");
    assert!(matches!(server.start(&options), Err(Error::Running { .. })));

    server.configure(&[setting("work_mem", "6MB")]).unwrap();
    server.reload().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while sql(&server, &options, "show work_mem") != "6MB" {
        assert!(Instant::now() < deadline, "the reload was not seen");
    }
    server.stop(Mode::Fast, Duration::from_secs(30)).unwrap();
    assert!(!server.is_running() && server.pid().is_none());
    server.stop(Mode::Fast, Duration::from_secs(30)).unwrap();
    assert!(matches!(server.reload(), Err(Error::NotRunning { .. })));
}

#[test]
fn a_crash_leaves_no_process_and_the_next_start_recovers() {
    let dir = folder();
    let mut server = init(dir.path());
    let options = options(dir.path());
    server.start(&options).unwrap();
    sql(&server, &options, "create table t as select 1 as a");
    server.crash().unwrap();
    assert!(server.data_dir().join("postmaster.pid").exists());
    server.start(&options).unwrap();
    assert_eq!(sql(&server, &options, "select a from t"), "1");
    let end = server.stop(Mode::Immediate, Duration::from_secs(30));
    end.unwrap();
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let dir = folder();
    let mut server = init(dir.path());
    let mut options = options(dir.path());
    options.settings = vec![setting("no_such_setting", "1")];
    let err = server.start(&options).unwrap_err();
    assert!(matches!(&err, Error::Ended { tail, .. } if tail.contains("no_such_setting")), "{err}");
    options.settings.clear();
    options.socket_dir = Some(dir.path().join("x".repeat(120)));
    assert!(matches!(server.start(&options), Err(Error::SocketPathTooLong { .. })));
    assert!(matches!(
        Server::open(server.installation(), &dir.path().join("none")),
        Err(Error::NotADataDirectory { .. })
    ));
}

#[test]
fn a_survivor_is_stopped_and_a_standby_is_promoted() {
    let dir = folder();
    let mut server = init(dir.path());
    let options = options(dir.path());
    fs::write(server.data_dir().join("standby.signal"), "").unwrap();
    server.start(&StartOptions { settings: vec![setting("hot_standby", "on")], ..options.clone() }).unwrap();
    assert_eq!(sql(&server, &options, "select pg_is_in_recovery()"), "t");
    server.promote(Duration::from_secs(30)).unwrap();
    assert_eq!(sql(&server, &options, "select pg_is_in_recovery()"), "f");

    // The data directory is a survivor's for everybody who did not start it.
    let pid = server.pid();
    let reaper = thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(outcome) = server.exited().unwrap() {
                return outcome;
            }
            assert!(Instant::now() < deadline);
            thread::sleep(POLL);
        }
    });
    assert_eq!(stop_survivor(&dir.path().join("made/data"), Duration::from_secs(30)).unwrap(), pid);
    assert_eq!(reaper.join().unwrap().code(), Some(0));
    assert_eq!(stop_survivor(&dir.path().join("made/data"), Duration::from_secs(1)).unwrap(), None);
}

#[test]
fn a_folder_closed_to_the_user_is_refused_with_a_place_to_go() {
    let dir = folder();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let result = Server::initdb(&installation(), &closed.join("some/data"), &InitOptions::default());
    if RunAs::choose().unwrap().user().is_none() {
        return; // Not root: the folder is our own.
    }
    let Err(Error::CannotTraverse { suggestion, .. }) = result else { panic!("{result:?}") };
    assert!(suggestion.starts_with("/var/lib/seawall"));
    assert_eq!(suggestion.file_name().unwrap().len(), 16);
    assert!(fs::read_dir(&closed).unwrap().next().is_none(), "nothing is made where it cannot be used");
}

#[test]
fn a_password_is_asked_for_and_its_file_is_gone() {
    let dir = folder();
    let auth = Auth::Scram { password: "open sesame".to_owned() };
    let init = InitOptions { sync: false, auth, ..InitOptions::default() };
    let mut server = Server::initdb(&installation(), &dir.path().join("data"), &init).unwrap();
    assert!(!dir.path().join("data.password").exists());
    let options = options(dir.path());
    server.start(&options).unwrap();
    let mut command = server.installation().command("psql", server.runs_as());
    command.args([
        "-X",
        "-w",
        "-U",
        "postgres",
        "-h",
        "127.0.0.1",
        "-p",
        &options.port.to_string(),
        "-c",
        "select 1",
        "postgres",
    ]);
    let output = command.current_dir("/").output().unwrap();
    assert!(!output.status.success());
    command.env("PGPASSWORD", "open sesame");
    assert!(command.output().unwrap().status.success());
}

#[test]
fn the_hash_of_a_folder_never_changes() {
    assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
}
