//! Reports from parts' answers, and how they look.

use super::*;
use serde_json::json;

fn proposer(value: serde_json::Value) -> Part {
    Part::Proposer(Box::new(serde_json::from_value(value).unwrap()))
}

fn safekeeper(node: u64, state: &str, stopped: Option<&str>) -> Part {
    let value = json!({"kind": "safekeeper", "node_id": node, "pg": format!("127.0.0.1:{}", 5000 + node), "free_bytes": 7,
        "clusters": [{"name": "orders", "state": state, "flush_lsn": "0/30", "commit_lsn": "0/20", "stopped": stopped}]});
    Part::Safekeeper(serde_json::from_value(value).unwrap())
}

fn leading(protected: bool) -> Part {
    proposer(
        json!({"kind": "proposer", "version": "9", "cluster": "orders", "state": "leading", "protected": protected,
        "reasons": if protected { json!([]) } else { json!([{"code": "fsync", "text": "fsync is off"}]) },
        "warnings": [{"code": "restart-after-crash", "text": "restart_after_crash is on"}],
        "refusal": null, "term": 3, "commit_lsn": "0/30", "received_lsn": "0/40",
        "primary": {"address": "db1:5432", "system_id": "7", "tli": 1, "version_num": 150018, "flush_lsn": "0/40"},
        "safekeepers": [
            {"node_id": 1, "address": "127.0.0.1:5001", "state": "streaming", "flush_lsn": "0/40", "lag_bytes": 0},
            {"node_id": 2, "address": "127.0.0.1:5002", "state": "catching-up", "flush_lsn": "0/30", "lag_bytes": 2048},
            {"node_id": null, "address": "127.0.0.1:5003", "state": "offline", "flush_lsn": null, "lag_bytes": null, "error": "refused"}]}),
    )
}

#[test]
fn the_proposer_decides_and_the_safekeepers_add_what_they_know() {
    let parts = vec![leading(true), safekeeper(2, "damaged", None), safekeeper(3, "member", None)];
    let report = Report::new(parts, vec![]);
    assert!(report.protected);
    let safekeepers = &report.clusters[0].safekeepers;
    assert_eq!(safekeepers.len(), 3);
    assert_eq!(safekeepers[1].error.as_deref(), Some("it does not vote (damaged)"));
    assert_eq!((safekeepers[2].node_id, safekeepers[2].flush_lsn.as_deref()), (Some(3), Some("0/30")));
    assert_eq!(safekeepers[2].error.as_deref(), Some("refused"));
}

#[test]
fn without_a_proposer_nobody_knows() {
    let report = Report::new(vec![safekeeper(1, "member", None)], vec!["the proposer: refused".to_owned()]);
    assert!(!report.protected);
    assert_eq!(report.clusters[0].reasons[0].code, "no-proposer");
    assert!(report.to_string().contains("orders  UNPROTECTED"));
    assert!(!Report::new(vec![], vec![]).protected);
}

#[test]
fn one_unprotected_cluster_is_enough() {
    let other = proposer(
        json!({"kind": "proposer", "cluster": "other", "state": "waiting", "protected": false, "safekeepers": []}),
    );
    let report = Report::new(vec![leading(true), other], vec![]);
    assert!(!report.protected);
    assert!(report.to_string().contains("the proposer is waiting"));
}

#[test]
fn of_two_proposers_the_leading_one_speaks() {
    let standby =
        || proposer(json!({"kind": "proposer", "cluster": "orders", "state": "connecting", "protected": false}));
    for parts in [vec![leading(true), standby()], vec![standby(), leading(true)]] {
        assert!(Report::new(parts, vec![]).protected);
    }
}

#[test]
fn a_refusal_is_a_reason() {
    let refused = json!({"kind": "proposer", "cluster": "orders", "state": "refused", "protected": false, "refusal": "it is a clone"});
    let report = Report::new(vec![proposer(refused)], vec![]);
    assert!(report.to_string().contains("  why      it is a clone"));
}

#[test]
fn the_table_lines_up() {
    let report = Report::new(vec![leading(false)], vec!["cannot connect to http://127.0.0.1:9".to_owned()]);
    let expected = "\
orders  UNPROTECTED
  why      fsync is off
  note     restart_after_crash is on
  primary  db1:5432  PostgreSQL 15.18  TLI 1
  commit   0/30  term 3
  safekeeper  address         state        flush  behind
  1           127.0.0.1:5001  streaming    0/40   0 B
  2           127.0.0.1:5002  catching-up  0/30   2.0 KiB
  -           127.0.0.1:5003  offline      -      -        refused
no answer: cannot connect to http://127.0.0.1:9
";
    assert_eq!(report.to_string(), expected);
}

#[test]
fn the_archive_is_what_its_uploader_says() {
    let safekeeper = |node: u64, archive: serde_json::Value| {
        let value = json!({"kind": "safekeeper", "node_id": node, "pg": format!("127.0.0.1:{}", 5000 + node),
            "clusters": [{"name": "orders", "state": "member", "archive": archive}]});
        Part::Safekeeper(serde_json::from_value(value).unwrap())
    };
    let idle = json!({"url": "s3://b/w", "uploader": 2, "uploading": false, "archived_lsn": null, "lag_bytes": null, "problem": null});
    let busy = json!({"url": "s3://b/w", "uploader": 2, "uploading": true, "archived_lsn": "0/20", "lag_bytes": 4096,
        "problem": "the store does not answer", "lost": null});
    let parts = vec![leading(true), safekeeper(1, idle.clone()), safekeeper(2, busy), safekeeper(3, idle)];
    let report = Report::new(parts, vec![]);
    let archive = report.clusters[0].archive.as_ref().unwrap();
    assert_eq!((archive.archived_lsn.as_deref(), archive.lag_bytes), (Some("0/20"), Some(4096)));
    let text = report.to_string();
    assert!(text.contains("archive  0/20  behind 4.0 KiB  s3://b/w  the store does not answer"), "{text}");
    assert_eq!(Report::new(vec![leading(true), safekeeper(1, json!(null))], vec![]).clusters[0].archive, None);
}
