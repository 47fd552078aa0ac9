//! Who may bind where, and who may ask for what.
//!
//! Whoever reaches a part's port can depose a leader. So the bind address decides: on loopback everybody is believed, anywhere else a
//! part needs keys to check tokens with, unless somebody insists on doing without. Checking tokens does not exist yet: keys are
//! refused rather than accepted and not used.
//!
//! The crate does not know who asks, and opens no socket and no file.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Why a part does not listen. A usage error (exit code 2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindRefused {
    /// Beyond loopback without keys.
    #[error(
        "{host} can be reached from other machines, and whoever reaches this port is believed; listen on 127.0.0.1, or insist with \
         --insecure-no-auth where a firewall or private network decides who reaches it"
    )]
    Open {
        /// The host of the bind address.
        host: String,
    },
    /// Keys, which nothing would check.
    #[error("--auth-keys {} cannot be used: token authentication is not available yet; leave it out and listen on 127.0.0.1", keys.display())]
    KeysUnavailable {
        /// The file that was named.
        keys: PathBuf,
    },
}

/// Whether a part may listen on `host` (an IP address without brackets, or a name). Keys are refused wherever it listens.
pub fn check_bind(host: &str, keys: Option<&Path>, insecure_no_auth: bool) -> Result<(), BindRefused> {
    if let Some(keys) = keys {
        return Err(BindRefused::KeysUnavailable { keys: keys.to_path_buf() });
    }
    match is_loopback(host) || insecure_no_auth {
        true => Ok(()),
        false => Err(BindRefused::Open { host: host.chars().take(253).collect() }),
    }
}

/// A name other than `localhost` may lead anywhere.
fn is_loopback(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback(),
        Ok(IpAddr::V6(ip)) => ip.to_ipv4_mapped().map_or(ip.is_loopback(), |ip| ip.is_loopback()),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_trusted() {
        for host in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "localhost"] {
            assert_eq!(check_bind(host, None, false), Ok(()), "{host}");
        }
    }

    #[test]
    fn anywhere_else_must_be_insisted_on() {
        for host in
            ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "localhost.example", "sk1", "", "127.0.0.1.example"]
        {
            let refused = check_bind(host, None, false).unwrap_err();
            assert!(matches!(refused, BindRefused::Open { .. }), "{host}");
            assert!(refused.to_string().contains("--insecure-no-auth"));
            assert_eq!(check_bind(host, None, true), Ok(()), "{host}");
        }
    }

    #[test]
    fn keys_are_never_silently_ignored() {
        for (host, insecure) in [("127.0.0.1", false), ("0.0.0.0", false), ("0.0.0.0", true)] {
            let refused = check_bind(host, Some(Path::new("/keys")), insecure).unwrap_err();
            assert!(refused.to_string().contains("not available yet"), "{refused}");
        }
    }
}
