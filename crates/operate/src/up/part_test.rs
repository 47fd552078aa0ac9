//! Children that are small shell scripts.

use super::*;

fn script(dir: &tempfile::TempDir, text: &str) -> Spec {
    Spec {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), text.into()],
        secrets: Vec::new(),
        log: dir.path().join("log"),
    }
}

async fn until(part: &mut Part, accept: impl Fn(&State) -> bool) -> State {
    let wait = async {
        loop {
            let state = part.state();
            if accept(&state) {
                return state;
            }
            part.state.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("no such state")
}

const READY: &str = r#"echo noise; echo "{\"ready\":{\"http\":\"127.0.0.1:1\",\"pid\":$$}}""#;

#[tokio::test]
async fn a_killed_part_is_started_again_and_a_stopped_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = Part::start(script(&dir, &format!("{READY}; exec cat >/dev/null")));
    let State::Ready(first) = until(&mut part, |state| matches!(state, State::Ready(_))).await else { panic!() };
    assert_eq!((first.pg.as_deref(), first.http.as_str()), (None, "127.0.0.1:1"));
    let pid = rustix::process::Pid::from_raw(first.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let down = until(&mut part, |state| matches!(state, State::Down(_))).await;
    assert!(matches!(down, State::Down(reason) if reason.contains("signal: 9")));
    let second = until(&mut part, |state| matches!(state, State::Ready(_))).await;
    let State::Ready(second) = second else { panic!() };
    assert_ne!(first.pid, second.pid);
    part.stop().await;
    let pid = rustix::process::Pid::from_raw(second.pid.cast_signed()).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_err());
}

#[tokio::test]
async fn a_part_that_refuses_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = Part::start(script(&dir, "echo first >&2; echo 'no such cluster' >&2; exit 3"));
    let failed = until(&mut part, |state| matches!(state, State::Failed(_))).await;
    assert!(matches!(failed, State::Failed(reason) if reason.ends_with("no such cluster")));
    part.stop().await;
}

#[tokio::test]
async fn a_part_that_fails_to_start_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("marker");
    let text = format!("if [ -e {0} ]; then {READY}; exec cat >/dev/null; fi; touch {0}; exit 1", marker.display());
    let mut part = Part::start(script(&dir, &text));
    until(&mut part, |state| matches!(state, State::Ready(_))).await;
    part.stop().await;
}

#[tokio::test]
async fn a_part_ends_when_its_standard_input_does() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let (child, stdin, mut lines) =
        spawn(&script(&dir, &format!("echo up; cat >/dev/null; touch {}", gone.display()))).unwrap();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("up"));
    drop(stdin);
    let mut child = child;
    child.wait().await.unwrap();
    assert!(gone.exists());
}
