//! Tests of conninfo: both spellings, hosts, environment, refusals, and that no password is ever shown.

use super::*;
use proptest::prelude::*;

fn info(text: &str) -> ConnInfo {
    text.parse().unwrap()
}

fn hosts_of(text: &str) -> Vec<String> {
    info(text).hosts().iter().map(Host::to_string).collect()
}

#[test]
fn pairs_with_quotes_and_escapes() {
    let read = info(r" host = db1  user='rep li' password='it\'s\\' dbname=a\ b options='-c x=y' ");
    assert_eq!(read.user(), Some("rep li"));
    assert_eq!(read.password(), Some(r"it's\"));
    assert_eq!((read.dbname(), read.options()), (Some("a b"), Some("-c x=y")));
    assert_eq!(info("user=a user=b dbname=''").user(), Some("b"));
    assert_eq!(info("dbname=''").dbname(), None);
}

#[test]
fn hosts_and_ports() {
    assert_eq!(hosts_of("host=a,b port=1,2"), ["a:1", "b:2"]);
    assert_eq!(hosts_of("host=a,b port=7"), ["a:7", "b:7"]);
    assert_eq!(hosts_of("host=a,/tmp"), ["a:5432", "/tmp/.s.PGSQL.5432"]);
    assert_eq!(hosts_of("host=::1"), ["[::1]:5432"]);
    assert_eq!(hosts_of("hostaddr=10.0.0.1"), ["10.0.0.1:5432"]);
    assert_eq!(hosts_of("port=9"), ["/var/run/postgresql/.s.PGSQL.9", "/tmp/.s.PGSQL.9"]);
    assert!(matches!("host=a,b,c port=1,2".parse::<ConnInfo>(), Err(ConnInfoError::Ports { hosts: 3, ports: 2 })));
    let both = info("host=db hostaddr=10.0.0.1");
    assert_eq!(both.hosts(), [Host::Tcp { name: "db".into(), address: Some("10.0.0.1".into()), port: 5432 }]);
}

#[test]
fn uris() {
    let read = info("postgres://rep:p%40ss@db1:1,[::1]:2,%2Ftmp/orders?sslmode=require&application_name=a%20b");
    assert_eq!((read.user(), read.password(), read.dbname()), (Some("rep"), Some("p@ss"), Some("orders")));
    assert_eq!((read.ssl_mode(), read.application_name()), (SslMode::Require, Some("a b")));
    let hosts: Vec<String> = read.hosts().iter().map(Host::to_string).collect();
    assert_eq!(hosts, ["db1:1", "[::1]:2", "/tmp/.s.PGSQL.5432"]);
    assert_eq!(hosts_of("postgresql:///db?host=/tmp&port=3"), ["/tmp/.s.PGSQL.3"]);
    assert_eq!(info("postgres://u@/").user(), Some("u"));
    for bad in ["postgres://[::1", "postgres://[::1]x", "postgres://a/%zz", "postgres://a/%00", "postgres://a?x"] {
        assert!(matches!(bad.parse::<ConnInfo>(), Err(ConnInfoError::Syntax(_))), "{bad}");
    }
}

#[test]
fn refusals_name_the_key() {
    for (text, message) in [
        ("hots=a", "the conninfo has the unknown key \"hots\""),
        ("postgres://a/?hots=b", "the conninfo has the unknown key \"hots\""),
        ("port=0", "the conninfo has port=\"0\"; expected a number from 1 to 65535"),
        ("channel_binding=require", "the conninfo has channel_binding=require, which is not supported here"),
        ("connect_timeout=soon", "the conninfo has connect_timeout=\"soon\"; expected a number of seconds"),
        ("host", "the conninfo cannot be read: a key is not followed by ="),
        ("password='x", "the conninfo cannot be read: a quoted value has no closing quote"),
    ] {
        assert_eq!(text.parse::<ConnInfo>().unwrap_err().to_string(), message, "{text}");
    }
    for text in ["sslmode=on", "target_session_attrs=x", "keepalives=x", "host=a hostaddr=1.2.3.4,1.2.3.5"] {
        assert!(text.parse::<ConnInfo>().is_err(), "{text}");
    }
    assert!("gssencmode=prefer channel_binding=prefer sslsni=1".parse::<ConnInfo>().is_ok());
}

#[test]
fn time_outs() {
    let timeout = |text: &str| info(text).connect_timeout();
    assert_eq!(timeout(""), Some(Duration::from_secs(10)));
    assert_eq!(timeout("connect_timeout=3"), Some(Duration::from_secs(3)));
    assert_eq!((timeout("connect_timeout=0"), timeout("connect_timeout=-1")), (None, None));
}

#[test]
fn the_environment_fills_what_is_missing() {
    let environment = |name: &str| {
        let value = match name {
            "PGHOST" => "other",
            "PGPORT" => "7",
            "PGUSER" => "rep",
            "USER" => "nobody",
            "PGPASSWORD" => "secret",
            "HOME" => "/home/x",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let read = info("host=db user=me").with_env(environment).unwrap();
    assert_eq!((read.user(), read.password()), (Some("me"), Some("secret")));
    assert_eq!(read.hosts()[0].to_string(), "db:7");
    assert_eq!(read.passfile(), Some(Path::new("/home/x/.pgpass")));
    assert_eq!(info("").with_env(environment).unwrap().user(), Some("rep"));
    assert_eq!(info("").with_env(environment).unwrap().hosts()[0].to_string(), "other:7");
}

#[test]
fn one_key_can_be_set() {
    let read = info("host=a password=x").with("dbname", "postgres").unwrap();
    assert_eq!((read.dbname(), read.password()), (Some("postgres"), Some("x")));
    assert!(read.with("nonsense", "1").is_err());
}

#[test]
fn passwords_are_never_shown() {
    for text in ["password=geheim host=a", "postgres://u:geheim@a/b", "postgres://a/b?password=geheim"] {
        let read = info(text);
        assert_eq!(read.password(), Some("geheim"));
        assert!(!format!("{read} {read:?} {read:#?}").contains("geheim"), "{text}");
    }
    for bad in ["password=a geheim", "password='a'geheim", "postgres://u:geheim%zz@a", "password='geheim"] {
        let error = bad.parse::<ConnInfo>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("geheim"), "{bad}");
    }
}

proptest! {
    #[test]
    fn what_is_shown_parses_back(user in "[^\0]{1,12}", dbname in "[^\0]{1,12}", name in "[^\0]{1,12}") {
        let read = ConnInfo::from_pairs([("user", user), ("dbname", dbname), ("application_name", name)]
            .map(|(key, value)| (key.to_owned(), value))).unwrap();
        prop_assert_eq!(info(&read.to_string()), read);
    }

    #[test]
    fn random_text_never_panics(text in ".{0,60}", uri in "postgres://[a-z0-9:@/?%&=,\\[\\]]{0,40}", pairs in "(host|port|user|password)=[ -~]{0,20}") {
        for text in [text, uri, pairs] {
            let _ = text.parse::<ConnInfo>();
        }
    }
}
