//! [`ConnInfo`]: where and how to connect, in libpq's two spellings.
//!
//! Invariants: every key is known and every value makes sense, or parsing fails; `Display` and `Debug` never show a
//! password; what `Display` shows parses back to the same but for the password.

mod syntax;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Keys that are understood.
const KNOWN: &[&str] = &[
    "application_name",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "options",
    "passfile",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// Keys of libpq that change nothing here, with the values that would: those are refused rather than ignored.
const TOLERATED: &[(&str, &[&str])] = &[
    ("channel_binding", &["require"]),
    ("client_encoding", &[]),
    ("gssdelegation", &["1"]),
    ("gssencmode", &["require"]),
    ("krbsrvname", &[]),
    ("load_balance_hosts", &["random"]),
    ("replication", &[]),
    ("sslcompression", &[]),
    ("sslnegotiation", &["direct"]),
    ("sslsni", &[]),
    ("ssl_min_protocol_version", &["TLSv1.3"]),
    ("tcp_user_timeout", &[]),
];

/// The environment's names of keys, as libpq has them.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PGAPPNAME", "application_name"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGDATABASE", "dbname"),
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGOPTIONS", "options"),
    ("PGPASSFILE", "passfile"),
    ("PGPASSWORD", "password"),
    ("PGPORT", "port"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGUSER", "user"),
    // Not libpq's, which asks the system for the name behind the user id; these come close.
    ("USER", "user"),
    ("LOGNAME", "user"),
];

const DEFAULT_PORT: u16 = 5432;
/// Where servers put their sockets unless told otherwise: Debian and Red Hat, then everybody else.
const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A conninfo that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    /// The text is neither `key=value` pairs nor a URI.
    #[error("the conninfo cannot be read: {0}")]
    Syntax(&'static str),
    /// A key nobody knows.
    #[error("the conninfo has the unknown key {0:?}")]
    UnknownKey(String),
    /// A value that the key does not take.
    #[error("the conninfo has {key}={value:?}; expected {expected}")]
    Value {
        /// The key; never `password`.
        key: &'static str,
        /// The value, at most 80 characters.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// A key of libpq whose value asks for something that is not done here.
    #[error("the conninfo has {key}={value}, which is not supported here")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// The value.
        value: &'static str,
    },
    /// A NUL byte, which the protocol cannot carry.
    #[error("the conninfo has a NUL byte in the value of {0}")]
    Nul(String),
    /// As many ports as hosts, or one for all.
    #[error("the conninfo has {hosts} hosts and {ports} ports; give one port for all hosts or one for each")]
    Ports {
        /// How many hosts.
        hosts: usize,
        /// How many ports.
        ports: usize,
    },
}

/// Whether and how TLS is used over TCP; never over a Unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// As [`SslMode::Prefer`] (libpq would begin without).
    Allow,
    /// If the server offers it. Proves nothing about the server.
    #[default]
    Prefer,
    /// Always. Proves nothing about the server, unless `sslrootcert` is given: then as [`SslMode::VerifyCa`], as in libpq.
    Require,
    /// Always, with a certificate that `sslrootcert` vouches for.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

/// Which servers will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TargetSession {
    /// Any (also `prefer-standby`).
    #[default]
    Any,
    /// Not in recovery and not read-only by default (`read-write`).
    ReadWrite,
    /// In recovery or read-only by default (`read-only`).
    ReadOnly,
    /// Not in recovery (`primary`).
    Primary,
    /// In recovery (`standby`).
    Standby,
}

/// One place to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A name or address, and a port.
    Tcp {
        /// The name that a certificate must carry; also resolved unless `address` is given.
        name: String,
        /// `hostaddr`: connect here instead of resolving the name.
        address: Option<String>,
        /// The port.
        port: u16,
    },
    /// A directory with the socket `.s.PGSQL.<port>`.
    Unix {
        /// The directory.
        directory: PathBuf,
        /// The number in the socket's name.
        port: u16,
    },
}

impl Host {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Host::Tcp { port, .. } | Host::Unix { port, .. } => *port,
        }
    }
}

impl fmt::Display for Host {
    /// `db1:5432`, `[::1]:5432` or `/tmp/.s.PGSQL.5432`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Tcp { name, port, .. } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Host::Tcp { name, port, .. } => write!(f, "{name}:{port}"),
            Host::Unix { directory, port } => write!(f, "{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

/// TCP keepalive, in the units of the socket option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Keepalive {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
}

/// Where and how to connect. Cheap to clone compared with connecting.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnInfo {
    settings: BTreeMap<String, String>,
    hosts: Vec<Host>,
    ssl_mode: SslMode,
    target_session: TargetSession,
    connect_timeout: Option<Duration>,
    keepalive: Option<Keepalive>,
}

impl FromStr for ConnInfo {
    type Err = ConnInfoError;

    /// Reads `key=value` pairs or a `postgres://` URI. The last of equal keys counts.
    fn from_str(text: &str) -> Result<ConnInfo, ConnInfoError> {
        ConnInfo::from_pairs(syntax::pairs(text)?)
    }
}

impl ConnInfo {
    fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<ConnInfo, ConnInfoError> {
        let mut settings = BTreeMap::new();
        for (key, value) in pairs {
            if value.contains('\0') {
                return Err(ConnInfoError::Nul(key));
            }
            if let Some((key, refused)) = TOLERATED.iter().find(|(name, _)| *name == key) {
                match refused.iter().find(|refused| **refused == value) {
                    Some(value) => return Err(ConnInfoError::Unsupported { key, value }),
                    None => continue,
                }
            }
            if !KNOWN.contains(&key.as_str()) {
                return Err(ConnInfoError::UnknownKey(key.chars().take(40).collect()));
            }
            // As in libpq an empty value is no value.
            if value.is_empty() {
                settings.remove(&key)
            } else {
                settings.insert(key, value)
            };
        }
        let number = |key: &'static str, default: u32| match settings.get(key) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| bad(key, value, "a number")),
        };
        let keepalive = Keepalive {
            idle: Duration::from_secs(number("keepalives_idle", 30)?.max(1).into()),
            interval: Duration::from_secs(number("keepalives_interval", 10)?.max(1).into()),
            count: number("keepalives_count", 3)?.max(1),
        };
        let keepalive = (number("keepalives", 1)? != 0).then_some(keepalive);
        let connect_timeout = match settings.get("connect_timeout").map(|value| (value, value.parse::<i32>())) {
            None => Some(DEFAULT_TIMEOUT),
            Some((_, Ok(seconds))) => u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs),
            Some((value, Err(_))) => return Err(bad("connect_timeout", value, "a number of seconds")),
        };
        Ok(ConnInfo {
            hosts: hosts(&settings)?,
            ssl_mode: ssl_mode(&settings)?,
            target_session: target_session(&settings)?,
            connect_timeout,
            keepalive,
            settings,
        })
    }

    /// The same with one key set; an empty value unsets it.
    ///
    /// # Errors
    /// As parsing.
    pub fn with(&self, key: &str, value: &str) -> Result<ConnInfo, ConnInfoError> {
        let pairs = self.settings.clone().into_iter();
        ConnInfo::from_pairs(pairs.chain([(key.to_owned(), value.to_owned())]))
    }

    /// The same with what is missing taken from libpq's environment variables (and `USER`), which `lookup` finds; the
    /// password file is `PGPASSFILE`, else `$HOME/.pgpass`.
    ///
    /// # Errors
    /// As parsing.
    pub fn with_env(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<ConnInfo, ConnInfoError> {
        let mut settings = self.settings.clone();
        for (variable, key) in ENVIRONMENT {
            // A host from here must not be paired with an address from there, nor with its port.
            let belongs_to_host = matches!(*key, "hostaddr" | "port") && self.settings.contains_key("host");
            let belongs_to_address = *key == "host" && self.settings.contains_key("hostaddr");
            let list = *key == "port" && lookup(variable).is_some_and(|value| value.contains(','));
            if settings.contains_key(*key) || belongs_to_address || (belongs_to_host && (list || *key == "hostaddr")) {
                continue;
            }
            if let Some(value) = lookup(variable).filter(|value| !value.is_empty()) {
                settings.insert((*key).to_owned(), value);
            }
        }
        if let Some(home) = lookup("HOME").filter(|home| !home.is_empty()) {
            settings.entry("passfile".to_owned()).or_insert_with(|| format!("{home}/.pgpass"));
        }
        ConnInfo::from_pairs(settings)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    /// The places to try, in order; never empty.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role.
    pub fn user(&self) -> Option<&str> {
        self.get("user")
    }

    /// The password. Do not show it.
    pub fn password(&self) -> Option<&str> {
        self.get("password")
    }

    /// A file of passwords, read when there is no password.
    pub fn passfile(&self) -> Option<&Path> {
        self.get("passfile").map(Path::new)
    }

    /// The database.
    pub fn dbname(&self) -> Option<&str> {
        self.get("dbname")
    }

    /// How the session is to be called, else `fallback_application_name`.
    pub fn application_name(&self) -> Option<&str> {
        self.get("application_name").or_else(|| self.get("fallback_application_name"))
    }

    /// Settings for the server, as on its command line.
    pub fn options(&self) -> Option<&str> {
        self.get("options")
    }

    /// Whether and how TLS is used.
    pub fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// PEM file of the certificates to trust; `system` for the system's.
    pub fn sslrootcert(&self) -> Option<&Path> {
        self.get("sslrootcert").map(Path::new)
    }

    /// PEM files of the client's own certificate chain and key.
    pub fn client_certificate(&self) -> Option<(&Path, &Path)> {
        Some((Path::new(self.get("sslcert")?), Path::new(self.get("sslkey")?)))
    }

    /// How long one address may take to connect, start TLS and authenticate; `None` = for ever. 10 s unless set.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// Which servers will do.
    pub fn target_session(&self) -> TargetSession {
        self.target_session
    }

    pub(crate) fn keepalive(&self) -> Option<Keepalive> {
        self.keepalive
    }
}

fn bad(key: &'static str, value: &str, expected: &'static str) -> ConnInfoError {
    ConnInfoError::Value { key, value: value.chars().take(80).collect(), expected }
}

fn ssl_mode(settings: &BTreeMap<String, String>) -> Result<SslMode, ConnInfoError> {
    match settings.get("sslmode").map(String::as_str) {
        // libpq: trusting the system's certificates without a name to compare would trust everybody.
        None if settings.get("sslrootcert").is_some_and(|file| file == "system") => Ok(SslMode::VerifyFull),
        None => Ok(SslMode::default()),
        Some("disable") => Ok(SslMode::Disable),
        Some("allow") => Ok(SslMode::Allow),
        Some("prefer") => Ok(SslMode::Prefer),
        Some("require") => Ok(SslMode::Require),
        Some("verify-ca") => Ok(SslMode::VerifyCa),
        Some("verify-full") => Ok(SslMode::VerifyFull),
        Some(other) => Err(bad("sslmode", other, "disable, allow, prefer, require, verify-ca or verify-full")),
    }
}

fn target_session(settings: &BTreeMap<String, String>) -> Result<TargetSession, ConnInfoError> {
    match settings.get("target_session_attrs").map(String::as_str) {
        None | Some("any" | "prefer-standby") => Ok(TargetSession::Any),
        Some("read-write") => Ok(TargetSession::ReadWrite),
        Some("read-only") => Ok(TargetSession::ReadOnly),
        Some("primary") => Ok(TargetSession::Primary),
        Some("standby") => Ok(TargetSession::Standby),
        Some(other) => {
            let expected = "any, read-write, read-only, primary, standby or prefer-standby";
            Err(bad("target_session_attrs", other, expected))
        }
    }
}

fn hosts(settings: &BTreeMap<String, String>) -> Result<Vec<Host>, ConnInfoError> {
    let list = |key: &str| -> Vec<&str> {
        settings.get(key).map(|text| text.split(',').map(str::trim).collect()).unwrap_or_default()
    };
    let (mut names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    if names.is_empty() {
        names = addresses.clone();
    }
    if !addresses.is_empty() && addresses.len() != names.len() {
        let value = settings.get("hostaddr").map(String::as_str).unwrap_or_default();
        return Err(bad("hostaddr", value, "as many addresses as hosts"));
    }
    let count = names.len().max(1);
    if ports.len() > 1 && ports.len() != count {
        return Err(ConnInfoError::Ports { hosts: count, ports: ports.len() });
    }
    let port_of = |index: usize| match ports.get(index).or(if ports.len() == 1 { ports.first() } else { None }) {
        None | Some(&"") => Ok(DEFAULT_PORT),
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(bad("port", port, "a number from 1 to 65535")),
        },
    };
    let mut hosts = Vec::new();
    let defaults = |port: u16| SOCKET_DIRS.map(|directory| Host::Unix { directory: directory.into(), port });
    if names.is_empty() {
        hosts.extend(defaults(port_of(0)?));
    }
    for (index, name) in names.iter().enumerate() {
        let port = port_of(index)?;
        let address = addresses.get(index).filter(|address| !address.is_empty()).map(|address| (*address).to_owned());
        if name.starts_with('/') && address.is_none() {
            hosts.push(Host::Unix { directory: name.into(), port });
        } else if name.is_empty() && address.is_none() {
            hosts.extend(defaults(port));
        } else {
            let name = if name.is_empty() { address.clone().unwrap_or_default() } else { (*name).to_owned() };
            hosts.push(Host::Tcp { name, address, port });
        }
    }
    Ok(hosts)
}

impl fmt::Display for ConnInfo {
    /// `key=value` pairs without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.settings.iter().filter(|(key, _)| *key != "password");
        for (index, (key, value)) in shown.enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{key}={}", syntax::quote(value))?;
        }
        Ok(())
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({self})")
    }
}

#[cfg(test)]
#[path = "conninfo_test.rs"]
mod tests;
