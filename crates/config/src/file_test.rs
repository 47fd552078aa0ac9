//! Files and flags together.

use clap::{Args, Command, FromArgMatches};
use lsn::NodeId;
use std::path::PathBuf;

use super::*;
use crate::*;

const DESIGN: &str = r#"
[safekeeper]
id = 1
data_dir = "/var/lib/seawall"
listen_pg = "10.0.0.1:5454"
listen_http = "10.0.0.1:7676"
[auth]
keys = "/etc/seawall/keys"
[[cluster]]
name = "orders"
primary = "host=db1,db2 user=seawall"
safekeepers = ["sk1:5454", "sk2:5454", "sk3:5454"]
archive = "s3://backups/wal"
[[sqlite]]
path = "/srv/app.db"
replicas = ["s3://backups/app"]
"#;

fn env(name: &str) -> Option<String> {
    match name {
        "NODE" => Some("7".to_owned()),
        "SECRET" => Some("pa$$ w".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse("seawall.toml", text, &env)
}

fn said(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn flags<T: Args + FromArgMatches>(args: &[&str]) -> T {
    let command = T::augment_args(Command::new("test").no_binary_name(true));
    T::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
}

#[test]
fn the_example_of_the_design_is_read() {
    let config = parse(DESIGN).unwrap();
    let options = SafekeeperFlags::default().resolve_over(&config).unwrap();
    assert_eq!(options.id, NodeId(1));
    assert_eq!(options.listen_pg, Address::new("10.0.0.1", 5454));
    assert_eq!((options.max_wal, options.min_wal), (ByteSize(16 << 30), ByteSize(2 << 30)));
    assert_eq!(options.auth.keys, Some(PathBuf::from("/etc/seawall/keys")));
    let options = ProposerFlags::default().resolve_over(&config).unwrap();
    assert_eq!(options.cluster.unwrap().as_str(), "orders");
    assert_eq!(options.safekeepers.len(), 3);
    assert_eq!(options.primary.as_str(), "host=db1,db2 user=seawall");
    assert_eq!(config.clusters[0].archive.as_deref(), Some("s3://backups/wal"));
    assert_eq!(config.sqlites[0].replicas[0].url, "s3://backups/app");
}

#[test]
fn flags_win_over_the_file_and_defaults_fill_the_rest() {
    let config =
        parse("[safekeeper]\nid = 1\ndata_dir = '/a'\nmax_wal = '1GiB'\npeers = ['a:1']\nlog_format = 'json'").unwrap();
    let given: SafekeeperFlags =
        flags(&["--id", "2", "--max-wal", "2 GiB", "--peers", "b:2,c:3", "--exit-on-stdin-eof"]);
    let options = given.resolve_over(&config).unwrap();
    assert_eq!((options.id, options.max_wal), (NodeId(2), ByteSize(2 << 30)));
    let given: SafekeeperFlags = flags(&["--id", "2", "--max-wal", "1 GiB"]);
    assert_eq!(given.resolve_over(&config).unwrap().min_wal, ByteSize(1 << 30), "never more than there may be");
    assert_eq!(options.data_dir, PathBuf::from("/a"));
    assert_eq!(options.peers, [Address::new("b", 2), Address::new("c", 3)]);
    assert_eq!(options.listen_pg.to_string(), "127.0.0.1:5454");
    assert_eq!(options.listen_http.to_string(), "127.0.0.1:7676");
    assert_eq!(options.common, CommonOptions { log_format: LogFormat::Json, exit_on_stdin_eof: true });
}

#[test]
fn errors_name_file_line_and_key() {
    for (text, expected) in [
        (
            "[safekeeper]\nid = 1\nlisten_pq = 'a:1'",
            "seawall.toml:3: safekeeper.listen_pq: unknown key; known here: id, data_dir",
        ),
        ("x = 1", "seawall.toml:1: x: unknown key; known here: safekeeper, proposer, auth, cluster, sqlite"),
        ("[safekeeper]\nid = -1", "seawall.toml:2: safekeeper.id: \"-1\" is not a node id"),
        (
            "[safekeeper]\nid = 1.5",
            "seawall.toml:2: safekeeper.id: a string, a whole number or a truth value is expected, not float",
        ),
        ("[safekeeper]\nlisten_pg = 'a'", "seawall.toml:2: safekeeper.listen_pg: \"a\" is not an address"),
        ("[safekeeper]\npeers = 'a:1'", "seawall.toml:2: safekeeper.peers: an array is expected, not string"),
        ("[safekeeper]\npeers = [\n'a:1',\n'b']", "seawall.toml:4: safekeeper.peers[2]: \"b\" is not an address"),
        ("[auth]\nkeys = '${KEYS}'", "seawall.toml:2: auth.keys: the environment variable KEYS is not set"),
        ("\n[[cluster]]\nprimary = 'x'", "seawall.toml:2: cluster[1]: the key name is missing"),
        (
            "[[cluster]]\nname='a'\n[[cluster]]\nname='a'",
            "seawall.toml:3: cluster[2].name: there is already a cluster named a",
        ),
        (
            "[[cluster]]\nname='a'\nsafekeepers=['a:1','a:1']",
            "seawall.toml:1: cluster[1].safekeepers: a:1 is listed twice",
        ),
        ("[cluster]\nname='a'", "seawall.toml:1: cluster: a table with two brackets ([[…]]) is expected, not table"),
        ("[[sqlite]]\npath='a'", "seawall.toml:1: sqlite[1].replicas: at least one replica is needed"),
        ("safekeeper = 1", "seawall.toml:1: safekeeper: a table is expected, not integer"),
        ("\n[safekeeper]\nid = 1\nid = 2", "seawall.toml:4: duplicate key"),
        ("a b", "seawall.toml:1: "),
    ] {
        let said = said(text);
        assert!(said.starts_with(expected), "{text:?} said {said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn the_environment_comes_into_values() {
    let text = "[safekeeper]\nid = '${NODE}'\ndata_dir = '/d/${NODE}'\n[[cluster]]\nname = 'a'\nprimary = 'password=${SECRET} x=$$1'";
    let config = parse(text).unwrap();
    assert_eq!(config.safekeeper.as_ref().unwrap().id, Some(NodeId(7)));
    assert_eq!(config.safekeeper.as_ref().unwrap().data_dir, Some(PathBuf::from("/d/7")));
    assert_eq!(config.clusters[0].primary.as_ref().unwrap().as_str(), "password=pa$$ w x=$1");
}

#[test]
fn a_cluster_is_chosen() {
    let config = parse("[[cluster]]\nname='a'\nsafekeepers=['s:1']\n[[cluster]]\nname='b'\nprimary='host=b'").unwrap();
    let resolve = |args: &[&str]| flags::<ProposerFlags>(args).resolve_over(&config).map_err(|err| err.to_string());
    assert_eq!(resolve(&[]).unwrap_err(), "the file has several clusters; choose one with --cluster: a, b");
    assert_eq!(resolve(&["--cluster", "c"]).unwrap_err(), "the file has no cluster c; choose one with --cluster: a, b");
    assert!(resolve(&["--cluster", "a"]).unwrap_err().contains("--primary"));
    assert!(resolve(&["--cluster", "b"]).unwrap_err().contains("--safekeepers"));
    let options = resolve(&["--cluster", "a", "--primary", "host=x"]).unwrap();
    assert_eq!((options.primary.as_str(), options.safekeepers.len()), ("host=x", 1));

    let bare: ProposerFlags = flags(&["--primary", "host=x", "--safekeepers", "s:1,s:2"]);
    assert_eq!(bare.resolve_over(&Config::default()).unwrap().cluster, None);
    let twice: ProposerFlags = flags(&["--primary", "host=x", "--safekeepers", "s:1,s:1"]);
    assert!(twice.resolve_over(&Config::default()).unwrap_err().to_string().contains("s:1 is listed twice"));
}

#[test]
fn what_is_missing_or_impossible_is_said() {
    let say = |args: &[&str]| flags::<SafekeeperFlags>(args).resolve(&env).unwrap_err().to_string();
    assert!(say(&[]).contains("--id"));
    assert!(say(&["--id", "1"]).contains("--data-dir"));
    assert!(say(&["--id", "0"]).contains("count from 1"));
    assert!(say(&["--config", "/nonexistent/seawall.toml"]).contains("/nonexistent/seawall.toml"));
}

#[test]
fn operators_options() {
    let up = flags::<UpFlags>(&[]).resolve().unwrap();
    assert_eq!((up.data_dir.to_str(), up.cluster.as_str()), (Some("./seawall-data"), "main"));
    assert_eq!((up.max_wal, up.pg_bin), (ByteSize(1 << 30), None));

    let init: InitFlags = flags(&["--cluster", "a", "--safekeepers", "s:1", "--safekeepers", "s:2"]);
    assert_eq!(init.resolve(&env).unwrap().safekeepers.len(), 2);
    assert!(flags::<InitFlags>(&["--safekeepers", "s:1"]).resolve(&env).unwrap_err().to_string().contains("--cluster"));

    let status = |args: &[&str]| flags::<StatusFlags>(args).resolve(&env).unwrap().source;
    assert_eq!(status(&[]), StatusSource::DataDir("./seawall-data".into()));
    assert_eq!(status(&["--data-dir", "d"]), StatusSource::DataDir("d".into()));
    let parts = status(&["--http", "http://127.0.0.1:1/", "--http", "b:2"]);
    assert_eq!(parts, StatusSource::Parts(vec![Address::new("127.0.0.1", 1), Address::new("b", 2)]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[safekeeper]\nlisten_http = 'a:9'\n[proposer]").unwrap();
    let parts = status(&["--config", file.path().to_str().unwrap()]);
    assert_eq!(parts, StatusSource::Parts(vec![Address::new("127.0.0.1", 7676), Address::new("a", 9)]));
}

/// Every key of a section has a flag, and every flag a key, but those that only make sense on a command line.
#[test]
fn flags_and_keys_do_not_drift_apart() {
    let ids = |command: &Command| -> Vec<String> {
        command.get_arguments().map(|arg| arg.get_id().as_str().to_owned()).collect()
    };
    let known = |section: &str| -> Vec<String> {
        let Error::File { problem: Problem::UnknownKey { known }, .. } =
            parse(&format!("[{section}]\nno_such = 1")).unwrap_err()
        else {
            panic!("an unknown key was taken")
        };
        known.into_iter().map(str::to_owned).collect()
    };
    let only_flags = [
        "config",
        "exit_on_stdin_eof",
        "auth_keys",
        "tls_cert",
        "tls_key",
        "tls_ca",
        "auth_token_file",
        "insecure_no_auth",
    ];
    let mut expected = ids(&SafekeeperFlags::augment_args(Command::new("safekeeper")));
    expected.retain(|id| !only_flags.contains(&id.as_str()));
    // A list in the file is a flag that is given once per value.
    let flag_of = |key: String| if key == "archive_recipients" { "archive_recipient".to_owned() } else { key };
    let keys: Vec<String> = known("safekeeper").into_iter().map(flag_of).collect();
    assert_eq!(keys, expected);
    let flags = ids(&ProposerFlags::augment_args(Command::new("proposer")));
    assert!(known("proposer").into_iter().map(flag_of).all(|key| flags.contains(&key)));
    assert_eq!(known("auth"), ["keys", "tls_cert", "tls_key", "tls_ca", "token_file", "insecure_no_auth"]);
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), " ".repeat(1024 * 1024 + 1)).unwrap();
    assert!(Config::load(file.path(), &env).unwrap_err().to_string().contains("1 MiB"));
}
