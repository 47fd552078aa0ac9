//! Keys and tokens as `openssl` and other libraries make them, and every way in which they are wrong.

use crate::{Claims, Gate, GateError, GateOptions, Grant, Outgoing, OutgoingError, PrivateKey, Refused, Scope, Secret};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

struct Room {
    dir: TempDir,
}

impl Room {
    fn new() -> Room {
        let room = Room { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(room.path("keys")).unwrap();
        room.key("ops");
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(self.dir.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// A new pair: the private key in `name`.pem, the public one among the keys.
    fn key(&self, name: &str) {
        self.openssl(&format!("genpkey -algorithm ed25519 -out {name}.pem"));
        self.openssl(&format!("pkey -in {name}.pem -pubout -out keys/{name}.pem"));
    }

    fn certificate(&self) {
        self.openssl(
            "req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout tls.key -out tls.crt -subj /CN=localhost",
        );
    }

    fn options(&self) -> GateOptions {
        GateOptions { keys: Some(self.path("keys")), ..GateOptions::default() }
    }

    fn gate(&self) -> Gate {
        Gate::open(&self.options(), &["127.0.0.1"]).unwrap()
    }

    fn token(&self, key: &str, claims: &Claims) -> Secret {
        claims.sign(&PrivateKey::load(&self.path(&format!("{key}.pem"))).unwrap()).unwrap()
    }
}

fn claims(scope: Scope) -> Claims {
    Claims { scope, cluster: None, exp: None, sub: None }
}

fn refused(gate: &Gate, token: &str) -> Refused {
    gate.admit(Some(token), HERE, false).unwrap_err()
}

#[test]
fn a_token_lets_in_for_its_scope_and_those_below() {
    let room = Room::new();
    let gate = room.gate();
    for (scope, allowed) in [(Scope::Read, 1), (Scope::Write, 2), (Scope::Admin, 3)] {
        let grant = gate.admit(Some(room.token("ops", &claims(scope)).reveal()), HERE, false).unwrap();
        let needs = [Scope::Read, Scope::Write, Scope::Admin];
        assert_eq!(needs.iter().filter(|needs| grant.allows(**needs, gate.now()).is_ok()).count(), allowed);
        assert_eq!(grant.admits_cluster("any"), Ok(()));
        assert_eq!(scope.to_string().parse(), Ok(scope));
    }
    let small = gate.admit(Some(room.token("ops", &claims(Scope::Read)).reveal()), HERE, false).unwrap();
    let refusal = small.allows(Scope::Admin, gate.now()).unwrap_err();
    assert_eq!((refusal.to_string().as_str(), refusal.reason()), ("the token allows read, this needs admin", "scope"));
}

#[test]
fn a_token_for_one_cluster_is_good_for_no_other() {
    let room = Room::new();
    let orders = Claims { cluster: Some("orders".into()), sub: Some("standby".into()), ..claims(Scope::Read) };
    let grant = room.gate().admit(Some(room.token("ops", &orders).reveal()), HERE, false).unwrap();
    assert_eq!((grant.cluster(), grant.subject()), (Some("orders"), Some("standby")));
    assert_eq!(grant.admits_cluster("orders"), Ok(()));
    assert_eq!(grant.admits_cluster("order"), Err(Refused::ForeignCluster("orders".into())));
}

#[test]
fn wrong_tokens_are_refused_each_in_its_sentence() {
    let room = Room::new();
    let gate = room.gate();
    assert_eq!(gate.admit(None, HERE, true), Err(Refused::Missing));
    assert_eq!(refused(&gate, ""), Refused::Missing);
    for nonsense in ["x", "a.b.c", "..", &"x".repeat(5000), "\0"] {
        assert_eq!(refused(&gate, nonsense), Refused::Malformed, "{nonsense:.10}");
    }
    // Somebody else's key.
    let stranger = Room::new();
    assert_eq!(refused(&gate, stranger.token("ops", &claims(Scope::Admin)).reveal()), Refused::UnknownKey);
    // Ours, with other claims put under the signature.
    let good = room.token("ops", &claims(Scope::Read)).reveal().to_owned();
    let better = room.token("ops", &claims(Scope::Admin)).reveal().to_owned();
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let forged = [&parts(&better)[..2], &parts(&good)[2..]].concat().join(".");
    assert_eq!(refused(&gate, &forged), Refused::UnknownKey);
    // The public key as the secret of a symmetric signature, and no signature at all.
    let public = std::fs::read(room.path("keys/ops.pem")).unwrap();
    let symmetric = EncodingKey::from_secret(&public);
    let symmetric = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(Scope::Admin), &symmetric).unwrap();
    assert_eq!(refused(&gate, &symmetric), Refused::Malformed);
    let none = format!("eyJhbGciOiJub25lIn0.{}.", parts(&better)[1]);
    assert_eq!(refused(&gate, &none), Refused::Malformed);
    // A scope nobody knows, and none.
    let key = PrivateKey::load(&room.path("ops.pem")).unwrap();
    for claims in [serde_json::json!({"scope": "root"}), serde_json::json!({}), serde_json::json!({"scope": 1})] {
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key.0).unwrap();
        assert_eq!(refused(&gate, &token), Refused::Malformed);
    }
}

#[test]
fn a_token_ends() {
    let room = Room::new();
    let gate = room.gate();
    let until = |exp: u64| room.token("ops", &Claims { exp: Some(exp), ..claims(Scope::Read) });
    assert_eq!(refused(&gate, until(gate.now()).reveal()), Refused::Expired);
    let grant = gate.admit(Some(until(gate.now() + 1000).reveal()), HERE, false).unwrap();
    assert_eq!(grant.allows(Scope::Read, gate.now() + 999), Ok(()));
    assert_eq!(grant.allows(Scope::Read, gate.now() + 1001), Err(Refused::Expired), "also on a connection that stays");
}

#[test]
fn in_the_clear_only_from_this_machine() {
    let room = Room::new();
    let (gate, token) = (room.gate(), room.token("ops", &claims(Scope::Read)));
    assert_eq!(gate.admit(Some(token.reveal()), THERE, false), Err(Refused::InTheClear));
    gate.admit(Some(token.reveal()), THERE, true).unwrap();
    let open = Gate::open(&GateOptions::default(), &["127.0.0.1"]).unwrap();
    assert_eq!(open.admit(None, THERE, false), Ok(Grant::everything()));
}

/// Waits until a gate has looked at its files again.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "the change was not taken up");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn keys_and_certificates_are_taken_up_when_they_change_and_broken_ones_are_not() {
    let room = Room::new();
    room.certificate();
    let mut options = room.options();
    (options.tls_certificate, options.tls_key) = (Some(room.path("tls.crt")), Some(room.path("tls.key")));
    let gate = Gate::open(&options, &["0.0.0.0"]).unwrap();
    let (before, ops) = (gate.tls().unwrap(), room.token("ops", &claims(Scope::Read)));
    room.key("next");
    let next = room.token("next", &claims(Scope::Read));
    eventually(|| gate.admit(Some(next.reveal()), HERE, false).ok());
    gate.admit(Some(ops.reveal()), HERE, false).unwrap();
    std::fs::remove_file(room.path("keys/ops.pem")).unwrap();
    eventually(|| gate.admit(Some(ops.reveal()), HERE, false).err());
    std::fs::write(room.path("keys/broken.pem"), "half a file").unwrap();
    room.certificate();
    let after = eventually(|| gate.tls().filter(|tls| !std::sync::Arc::ptr_eq(tls, &before)));
    gate.admit(Some(next.reveal()), HERE, false).unwrap();
    std::fs::write(room.path("tls.crt"), "half a file").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(std::sync::Arc::ptr_eq(&gate.tls().unwrap(), &after), "a broken file changes nothing");
}

#[test]
fn files_that_are_not_keys_are_refused_by_name() {
    let room = Room::new();
    let open = |keys: &Path| {
        let options = GateOptions { keys: Some(keys.to_owned()), ..GateOptions::default() };
        Gate::open(&options, &[]).unwrap_err().to_string()
    };
    std::fs::create_dir(room.path("empty")).unwrap();
    assert!(open(&room.path("empty")).contains("holds no keys"));
    assert!(open(&room.path("nowhere")).contains("nowhere"));
    assert!(open(&room.path("ops.pem")).contains("Ed25519 public key"), "a private key is no public one");
    room.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out ec.pem");
    room.openssl("pkey -in ec.pem -pubout -out ec-public.pem");
    assert!(open(&room.path("ec-public.pem")).contains("Ed25519 public key"));
    assert!(PrivateKey::load(&room.path("ec.pem")).unwrap_err().to_string().contains("Ed25519 private key"));
    let half = GateOptions { tls_key: Some(room.path("ops.pem")), ..GateOptions::default() };
    assert!(matches!(Gate::open(&half, &[]).unwrap_err(), GateError::Half));
}

#[test]
fn secrets_do_not_print() {
    let room = Room::new();
    let token = room.token("ops", &claims(Scope::Admin));
    let file = room.path("token");
    std::fs::write(&file, format!("{}\n", token.reveal())).unwrap();
    let outgoing = Outgoing::new(Some(&file), None, None).unwrap();
    assert_eq!(outgoing.token(), Some(&token));
    let shown = format!("{token} {token:?} {outgoing:?} {:?}", PrivateKey::load(&room.path("ops.pem")).unwrap());
    assert!(!shown.contains(&token.reveal()[..20]) && shown.contains("***"), "{shown}");
}

#[test]
fn a_token_is_shown_to_verified_servers_only() {
    let token = Some(Secret::new("t"));
    let bare = Outgoing::new(None, token.clone(), None).unwrap();
    assert_eq!(bare.settings("127.0.0.1").unwrap(), [("sslmode", "disable".into()), ("password", "t".to_owned())]);
    assert!(matches!(bare.settings("sk1"), Err(OutgoingError::Unverified { .. })));
    let verified = Outgoing::new(None, token, Some("/ca.pem".into())).unwrap();
    let settings = verified.settings("sk1").unwrap();
    assert_eq!(settings[0], ("sslmode", "verify-full".to_owned()));
    assert_eq!(settings.len(), 3);
    assert_eq!(Outgoing::default().settings("sk1").unwrap(), [("sslmode", "disable".to_owned())]);
    let room = Room::new();
    std::fs::write(room.path("empty"), " \n").unwrap();
    assert!(matches!(Outgoing::new(Some(&room.path("empty")), None, None), Err(OutgoingError::NoToken(_))));
}
