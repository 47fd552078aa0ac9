//! `[[sqlite]]` and the flags of `replicate`.

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("x.toml", text, &|name| (name == "KEY").then(|| "secret".to_owned()))
        .map_err(|error| error.to_string())
}

#[test]
fn lengths_of_time() {
    for (text, millis) in [
        ("0", 0),
        ("500ms", 500),
        ("1s", 1000),
        ("90m", 5_400_000),
        ("24h", 86_400_000),
        ("7d", 604_800_000),
        ("24h0m1s", 86_401_000),
    ] {
        assert_eq!(text.parse::<Interval>().map(|interval| interval.0.as_millis()), Ok(millis), "{text}");
    }
    for bad in ["", "1", "s", "-1s", "1.5h", "1 s", "99999999999999999d", "1y"] {
        assert!(bad.parse::<Interval>().is_err(), "{bad}");
    }
    for text in ["0", "500ms", "1s", "90m", "1d", "7d"] {
        assert_eq!(text.parse::<Interval>().unwrap().to_string(), text);
    }
}

#[test]
fn a_file_and_a_directory() {
    let config = parse(
        r#"
[[sqlite]]
path = "/srv/app.db"
replicas = ["s3://backups/app", "/mnt/app"]
checkpoint_interval = "5m"
[[sqlite]]
dir = "/srv/tenants"
recursive = true
[[sqlite.replica]]
url = "s3://b/t"
name = "far"
retention = "72h"
secret_access_key = "${KEY}"
recipients = ["age1x"]
"#,
    )
    .unwrap();
    let [one, two] = config.sqlites.as_slice() else { panic!("{config:?}") };
    assert_eq!(one.source, SqliteSource::File("/srv/app.db".into()));
    assert_eq!(one.replicas.len(), 2);
    assert_eq!(one.checkpoint_interval, Some(Interval(Duration::from_secs(300))));
    let SqliteSource::Directory { pattern, recursive, .. } = &two.source else { panic!("{two:?}") };
    assert_eq!((pattern.as_str(), *recursive), ("*.db", true));
    assert_eq!(two.replicas[0].store, [("secret-access-key".to_owned(), "secret".to_owned())]);
    assert!(!format!("{two:?}").contains("secret"), "{two:?}");
}

#[test]
fn what_cannot_be_is_refused() {
    for (text, word) in [
        ("[[sqlite]]\npath = \"a\"", "at least one replica"),
        ("[[sqlite]]\nreplicas = [\"a\"]", "either path or dir"),
        ("[[sqlite]]\npath = \"a\"\ndir = \"b\"\nreplicas = [\"a\"]", "either path or dir"),
        ("[[sqlite]]\npath = \"a\"\npattern = \"*\"\nreplicas = [\"a\"]", "go with dir"),
        ("[[sqlite]]\npath = \"a\"\nreplicas = [\"a\", \"a\"]", "two replicas go to"),
        ("[[sqlite]]\npath = \"a\"\nreplicas = [\"a\"]\n[[sqlite]]\npath = \"a\"\nreplicas = [\"b\"]", "already"),
        ("[[sqlite]]\npath = \"a\"\n[[sqlite.replica]]\nurl = \"b\"\nretension = \"1h\"", "retension"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn flags_without_a_file() {
    let flags = ReplicateFlags {
        database: Some("app.db".into()),
        replicas: vec!["s3://b/app".to_owned()],
        sync_interval: Some(Interval(Duration::from_secs(5))),
        ..ReplicateFlags::default()
    };
    let options = flags.resolve(&|_| None).unwrap();
    assert_eq!(options.databases[0].replicas[0].sync_interval, Some(Interval(Duration::from_secs(5))));
    assert!(ReplicateFlags::default().resolve(&|_| None).is_err());
}
