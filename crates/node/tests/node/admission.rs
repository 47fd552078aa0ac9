//! Tokens at both ports: who is let in, for what, and in which sentence others are not.

use crate::client::{Client, Refused, framed, startup_packet};
use crate::messages::TENANT;
use crate::process::{Node, Setup};
use crate::session::{START, by_ids, init_command, only};
use auth::{Claims, PrivateKey, Scope};
use lsn::Lsn;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use tempfile::TempDir;

struct Guarded {
    node: Node,
    key: PrivateKey,
    dir: TempDir,
}

impl Guarded {
    fn start() -> Guarded {
        let dir = tempfile::tempdir().unwrap();
        let openssl = |arguments: &str| {
            let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).status().unwrap();
            assert!(done.success());
        };
        std::fs::create_dir(dir.path().join("data.keys")).unwrap();
        openssl("genpkey -algorithm ed25519 -out private.pem");
        openssl("pkey -in private.pem -pubout -out data.keys/ops.pem");
        let setup = Setup { asks_for_tokens: true, ..Setup::new(1, &dir.path().join("data")) };
        let key = PrivateKey::load(&dir.path().join("private.pem")).unwrap();
        Guarded { node: setup.start(), key, dir }
    }

    fn token(&self, scope: Scope, cluster: Option<&str>, exp: Option<u64>) -> String {
        let claims = Claims { scope, cluster: cluster.map(str::to_owned), exp, sub: None };
        claims.sign(&self.key).unwrap().reveal().to_owned()
    }

    /// A connection with this password, or why not.
    fn connect(&self, options: &str, password: &str) -> Result<Client, Refused> {
        let mut client = Client::raw(self.node.pg);
        client.send_raw(&startup_packet(options, "test"));
        let asked = client.recv();
        assert_eq!((asked.tag, asked.body.as_slice()), (b'R', &[0, 0, 0, 3][..]), "a cleartext password is asked for");
        client.send_raw(&framed(b'p', format!("{password}\0").as_bytes()));
        client.finish_startup().map(|()| client)
    }

    fn get(&self, path: &str, token: Option<&str>) -> String {
        let mut stream = TcpStream::connect(self.node.http).unwrap();
        let header = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.trim_start_matches("HTTP/1.1 ").to_owned()
    }

    /// Clusters `orders` and `other`.
    fn with_clusters(self) -> Guarded {
        let mut admin = self.connect("", &self.token(Scope::Admin, None, None)).unwrap();
        let disk = &admin.parameters["seawall_disk_id"];
        let record = format!("1/0/1:{disk}@127.0.0.1:{}", self.node.pg.port());
        admin.rows(&init_command("orders", TENANT, &record)).unwrap();
        admin.rows(&init_command("other", [9; 16], &record)).unwrap();
        self
    }
}

#[test]
fn without_a_good_token_nobody_is_let_in_and_told_why_in_one_sentence() {
    let room = Guarded::start();
    let stranger = Guarded::start();
    let refused = |password: &str| {
        let Refused { code, text } = room.connect("", password).unwrap_err();
        assert_eq!(code, "28P01");
        text
    };
    assert!(refused("").contains("a token is needed"));
    assert!(refused("letmein").contains("not a JWT"));
    assert!(refused(&"x".repeat(5000)).contains("not a JWT"));
    assert!(refused(&stranger.token(Scope::Admin, None, None)).contains("not signed by a key"));
    assert!(refused(&room.token(Scope::Admin, None, Some(1000))).contains("has expired"));
    // Whoever says something else than a password, or too much, is sent away as well.
    for nonsense in [framed(b'Q', b"LOG_STATUS\0"), framed(b'p', &vec![b'x'; 100_000])] {
        let mut client = Client::raw(room.node.pg);
        client.send_raw(&startup_packet("", "test"));
        client.recv();
        client.send_raw(&nonsense);
        assert!(client.last_words().is_some());
    }
    let counted = room.get("/metrics", Some(&room.token(Scope::Read, None, None)));
    for reason in ["missing", "malformed", "unknown-key", "expired"] {
        assert!(counted.contains(&format!("reason=\"{reason}\"")), "{reason} is not counted");
    }
}

#[test]
fn a_scope_is_enough_for_its_commands_and_no_others() {
    let room = Guarded::start().with_clusters();
    let allowed = |scope: Scope, command: &str| {
        let mut client = room.connect(&by_ids(), &room.token(scope, None, None)).unwrap();
        client.send_query(command);
        let first = client.recv();
        let code = first.refused().map(|refused| refused.code);
        assert_ne!(first.tag, b'Z');
        code.as_deref() != Some("42501")
    };
    for command in ["LOG_STATUS", "TIMELINE_STATUS", "SHOW data_directory_mode", "START_REPLICATION 0/0 TIMELINE 1"] {
        assert!(allowed(Scope::Read, command), "{command}");
    }
    let push = "START_WAL_PUSH (proto_version '3')";
    let term = format!("START_REPLICATION {} (term='1')", Lsn(START));
    let init = init_command("third", [3; 16], &format!("1/0/1:{}@127.0.0.1:1", "0".repeat(32)));
    for (command, needs) in [(push, 1), (&term, 1), (&init, 2)] {
        let may = [Scope::Read, Scope::Write, Scope::Admin].map(|scope| allowed(scope, command));
        assert_eq!(may.iter().position(|may| *may), Some(needs), "{command}");
    }
}

#[test]
fn a_token_for_one_cluster_shows_and_changes_no_other() {
    let room = Guarded::start().with_clusters();
    let token = room.token(Scope::Admin, Some("orders"), None);
    let mut client = room.connect("", &token).unwrap();
    let rows = client.rows("LOG_STATUS").unwrap();
    assert_eq!((rows.len(), rows[0]["cluster"].as_str()), (1, "orders"));
    client.row("TIMELINE_STATUS");
    let refused = room.connect("-c cluster=other", &token).unwrap_err();
    assert!(refused.text.contains("for cluster \"orders\" only"), "{}", refused.text);
    // By its ids the other cluster is not there for this token, and is not made anew.
    let other = by_ids().replace(&crate::messages::hex(TENANT), &crate::messages::hex([9; 16]));
    let mut by_its_ids = room.connect(&other, &token).unwrap();
    assert!(by_its_ids.rows("TIMELINE_STATUS").is_err());
    by_its_ids.send_query("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'true')");
    assert!(by_its_ids.recv().refused().is_some());
    let record = only_by(&room);
    let refused = client.rows(&init_command("fourth", [4; 16], &record)).unwrap_err();
    assert_eq!(refused.code, "42501", "{}", refused.text);
    assert!(room.dir.path().exists());
}

fn only_by(room: &Guarded) -> String {
    let client = room.connect("", &room.token(Scope::Read, None, None)).unwrap();
    format!("1/0/1:{}@127.0.0.1:{}", client.parameters["seawall_disk_id"], room.node.pg.port())
}

#[test]
fn http_wants_a_bearer_and_tells_no_stranger_more_than_ready() {
    let room = Guarded::start().with_clusters();
    for path in ["/", "/metrics", "/v1/status", "/v1/clusters/orders"] {
        let answer = room.get(path, None);
        assert!(answer.starts_with("401") && answer.contains("www-authenticate: Bearer"), "{answer}");
        assert!(room.get(path, Some("x")).starts_with("401"));
        assert!(room.get(path, Some(&room.token(Scope::Read, None, None))).starts_with("200"), "{path}");
    }
    assert!(room.get("/v1/ready", None).ends_with("{\"ready\":true}\n"));
    let one = room.token(Scope::Read, Some("orders"), None);
    assert!(room.get("/v1/clusters/orders", Some(&one)).starts_with("200"));
    for path in ["/v1/status", "/v1/clusters/other", "/metrics"] {
        assert!(room.get(path, Some(&one)).starts_with("403"), "{path}");
    }
}

#[test]
fn an_address_beyond_loopback_needs_more_than_keys() {
    let dir = tempfile::tempdir().unwrap();
    let open = Setup { listen: "0.0.0.0:0", ..Setup::new(1, &dir.path().join("data")) };
    assert!(open.try_start().err().unwrap().contains("--auth-keys"));
    std::fs::create_dir(dir.path().join("data.keys")).unwrap();
    let in_the_clear = Setup { asks_for_tokens: true, ..open };
    assert!(in_the_clear.try_start().err().unwrap().contains("--tls-cert"));
    let no_keys = Setup { listen: "127.0.0.1:0", ..in_the_clear };
    assert!(no_keys.try_start().err().unwrap().contains("holds no keys"));
    assert!(!only(&Node::fresh().0).is_empty(), "on loopback without keys everybody is believed");
}
