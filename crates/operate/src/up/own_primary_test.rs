//! What is set, and what is taken back; the latter on the PostgreSQL that is installed here.

use super::*;
use crate::up::folder::Kept;
use crate::up::postgres;
use pg_server::{Mode, StartOptions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

fn with(names: &str) -> Settings {
    Settings { synchronous_standby_names: names.to_owned(), ..Settings::default() }
}

#[test]
fn only_what_is_missing_is_set() {
    assert!(wanted(&with("ANY 2 (seawall, b)")).is_none());
    assert_eq!(wanted(&with("")).unwrap().to_string(), "FIRST 1 (seawall)");
    assert_eq!(wanted(&with("b")).unwrap().to_string(), "FIRST 2 (seawall, b)");
}

#[test]
fn values_cannot_leave_their_literal() {
    assert_eq!(quoted(r#"FIRST 1 ("it's \")"#), r#"E'FIRST 1 ("it''s \\")'"#);
}

async fn becomes(info: &ConnInfo, expected: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let settings = check(info).await.unwrap();
        if settings.synchronous_standby_names == expected {
            return;
        }
        assert!(Instant::now() < deadline, "it stays {:?}", settings.synchronous_standby_names);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_change_is_taken_back_to_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = Folder::open(&dir.path().join("up")).unwrap();
    let mut kept: Kept = folder.kept().unwrap();
    let installation = postgres::installation(None, |_| ()).unwrap();
    // A killed initdb leaves something half-made behind.
    std::fs::create_dir(folder.path("postgres.new")).unwrap();
    let mut server = postgres::open(&installation, &folder, &mut kept, |_| ()).unwrap();
    assert_eq!(folder.kept().unwrap(), kept);
    server.start(&StartOptions::on_port(kept.postgres_port)).unwrap();
    let info: ConnInfo = format!("host=127.0.0.1 port={} user=postgres", kept.postgres_port).parse().unwrap();

    assert!(!take_back(&info, &folder).await.unwrap());
    let line = configure(&info, &folder).await.unwrap();
    assert_eq!(line.as_deref(), Some("synchronous_standby_names = 'FIRST 1 (seawall)'"));
    becomes(&info, "FIRST 1 (seawall)").await;
    assert_eq!(configure(&info, &folder).await.unwrap(), None);
    assert!(take_back(&info, &folder).await.unwrap());
    becomes(&info, "").await;

    set(&mut connect(&info).await.unwrap(), Some("\"b\"")).await.unwrap();
    becomes(&info, "\"b\"").await;
    configure(&info, &folder).await.unwrap();
    becomes(&info, "FIRST 2 (seawall, b)").await;
    assert!(take_back(&info, &folder).await.unwrap());
    becomes(&info, "\"b\"").await;

    // Somebody else's later change stays.
    configure(&info, &folder).await.unwrap();
    becomes(&info, "FIRST 2 (seawall, b)").await;
    set(&mut connect(&info).await.unwrap(), None).await.unwrap();
    becomes(&info, "").await;
    assert!(!take_back(&info, &folder).await.unwrap());
    becomes(&info, "").await;

    // The next start stops a server that was left behind, and finds it where it was.
    let pid = server.pid();
    let opened = postgres::open(&installation, &folder, &mut kept, |_| ()).unwrap();
    assert_eq!(opened.data_dir(), server.data_dir());
    assert!(pid.is_some() && !server.is_running());
    server.stop(Mode::Immediate, Duration::from_secs(10)).unwrap();
}
