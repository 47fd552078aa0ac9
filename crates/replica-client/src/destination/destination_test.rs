//! URLs and options, and that no secret is shown.

use super::*;

fn parsed(text: &str) -> String {
    Destination::parse(text).map_or_else(|error| format!("! {error}"), |destination| destination.to_string())
}

#[test]
fn urls_mean_what_the_table_says() {
    assert_eq!(parsed("s3://backups/wal/"), "s3://backups/wal");
    assert_eq!(parsed("s3://backups"), "s3://backups");
    assert_eq!(
        parsed("s3://b/p?endpoint=http://127.0.0.1:3900&region=garage&force-path-style=true"),
        "s3://b/p?endpoint=http://127.0.0.1:3900&force-path-style=true&region=garage"
    );
    assert_eq!(parsed("http://127.0.0.1:9000/bucket/a/b"), "s3://bucket/a/b?endpoint=http://127.0.0.1:9000");
    assert_eq!(parsed("https://store.example/bucket"), "s3://bucket?endpoint=https://store.example");
    assert_eq!(parsed("s3://b.localhost:9000/p"), "s3://b/p?endpoint=http://localhost:9000");
    assert_eq!(
        parsed("s3://b.c.s3.eu-central-003.backblazeb2.com/p"),
        "s3://b.c/p?endpoint=https://s3.eu-central-003.backblazeb2.com&region=eu-central-003"
    );
    assert_eq!(
        parsed("s3://b.nyc3.digitaloceanspaces.com"),
        "s3://b?endpoint=https://nyc3.digitaloceanspaces.com&region=nyc3"
    );
    assert_eq!(parsed("s3://b.s3.nl-ams.scw.cloud"), "s3://b?endpoint=https://s3.nl-ams.scw.cloud&region=nl-ams");
    assert_eq!(
        parsed("s3://b.us-east-1.linodeobjects.com"),
        "s3://b?endpoint=https://us-east-1.linodeobjects.com&region=us-east-1"
    );
    assert_eq!(parsed("s3://b.s3.filebase.com/x"), "s3://b/x?endpoint=https://s3.filebase.com");
    assert_eq!(parsed("s3://my.bucket.with.dots/x"), "s3://my.bucket.with.dots/x");
    assert_eq!(parsed("gs://b/p"), "gs://b/p");
    assert_eq!(parsed("abs://account@container/p"), "az://container/p?account-name=account");
    assert_eq!(parsed("az://container"), "az://container");
    assert_eq!(parsed("file:///srv/a%20b"), "/srv/a b");
    assert_eq!(parsed("/srv/replica"), "/srv/replica");
    assert_eq!(parsed("relative/replica"), "relative/replica");
    assert_eq!(parsed("s3://b/a%20b+c"), "s3://b/a b+c");
}

#[test]
fn what_cannot_be_used_says_why() {
    for (text, why) in [
        ("ftp://host/x", "ftp://"),
        ("http://host:80/", "names no bucket"),
        ("s3:///path", "names no bucket"),
        ("s3://host:1234/path", "http://host:port/bucket/path"),
        ("s3://user:secret@bucket/path", "a password"),
        ("s3://b/p?secret-access-key=very", "option secret-access-key"),
        ("", "empty"),
    ] {
        let shown = parsed(text);
        assert!(shown.starts_with("! ") && shown.contains(why), "{text}: {shown}");
        assert!(!shown.contains("very") && !shown.contains("secret@"), "{shown}");
    }
}

#[test]
fn options_are_checked_before_the_first_request() {
    let options = |list: &[(&str, &str)]| {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let s3 = Destination::parse("s3://b/p").unwrap();
    let full = s3
        .clone()
        .with_options(options(&[
            ("access-key-id", "id"),
            ("secret_access_key", "very secret"),
            ("endpoint", "http://127.0.0.1:1"),
            ("disable-bulk-delete", "true"),
        ]))
        .unwrap();
    assert!(!format!("{full:?} {full}").contains("very"), "{full:?}");
    full.open().unwrap();
    let error = s3.clone().with_options(options(&[("colour", "red")])).unwrap_err();
    assert_eq!(error.to_string(), "a replica at s3:// has no option \"colour\"");
    let error = s3.with_options(options(&[("force-path-style", "maybe")])).unwrap_err();
    assert_eq!(error.to_string(), "option force-path-style cannot be \"maybe\"");
    assert!(Destination::parse("/x").unwrap().with_options(options(&[("region", "x")])).is_err());
}

#[test]
fn below_goes_deeper() {
    let root = Destination::parse("s3://b/p").unwrap();
    assert_eq!(root.below("postgres/1/").to_string(), "s3://b/p/postgres/1");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("a/b");
    let directory = Destination::parse(place.to_str().unwrap()).unwrap();
    assert!(directory.is_directory());
    let store = directory.below("c").open().unwrap();
    assert_eq!(store.root(), "c");
    assert!(place.is_dir());
}
