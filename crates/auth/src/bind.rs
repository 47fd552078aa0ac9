//! The bind rule.

use std::net::IpAddr;

/// Why a part does not listen. A usage error (exit code 2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindRefused {
    /// Beyond loopback without keys.
    #[error(
        "{host} can be reached from other machines, and without --auth-keys whoever reaches this port is believed; listen on 127.0.0.1, or \
         insist with --insecure-no-auth where a firewall or private network decides who reaches it"
    )]
    Open {
        /// The host of the bind address.
        host: String,
    },
    /// Beyond loopback with keys, but tokens would travel in the clear.
    #[error(
        "{host} can be reached from other machines, and without --tls-cert and --tls-key tokens could be read on the way; give both, or listen \
         on 127.0.0.1"
    )]
    InTheClear {
        /// The host of the bind address.
        host: String,
    },
}

/// Whether a part may listen on `host` (an IP address without brackets, or a name).
pub fn check_bind(host: &str, has_keys: bool, has_tls: bool, insecure_no_auth: bool) -> Result<(), BindRefused> {
    let host_shown = || host.chars().take(253).collect();
    match (has_keys, has_tls) {
        _ if is_loopback(host) => Ok(()),
        (true, true) => Ok(()),
        (true, false) => Err(BindRefused::InTheClear { host: host_shown() }),
        (false, _) if insecure_no_auth => Ok(()),
        (false, _) => Err(BindRefused::Open { host: host_shown() }),
    }
}

/// A name other than `localhost` may lead anywhere.
pub(crate) fn is_loopback(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback(),
        Ok(IpAddr::V6(ip)) => ip.to_ipv4_mapped().map_or(ip.is_loopback(), |ip| ip.is_loopback()),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEYOND: [&str; 8] =
        ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "localhost.example", "sk1", "", "127.0.0.1.example"];

    #[test]
    fn loopback_is_trusted() {
        for host in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "localhost"] {
            for (keys, tls) in [(false, false), (true, false), (false, true), (true, true)] {
                assert_eq!(check_bind(host, keys, tls, false), Ok(()), "{host}");
            }
        }
    }

    #[test]
    fn anywhere_else_needs_keys_and_tls_or_must_be_insisted_on() {
        for host in BEYOND {
            for tls in [false, true] {
                let refused = check_bind(host, false, tls, false).unwrap_err();
                assert!(matches!(refused, BindRefused::Open { .. }), "{host}");
                assert!(refused.to_string().contains("--insecure-no-auth"));
                assert_eq!(check_bind(host, false, tls, true), Ok(()), "{host}");
            }
            assert_eq!(check_bind(host, true, true, false), Ok(()), "{host}");
        }
    }

    #[test]
    fn keys_are_never_used_in_the_clear_beyond_loopback() {
        for host in BEYOND {
            for insecure in [false, true] {
                let refused = check_bind(host, true, false, insecure).unwrap_err();
                assert!(matches!(refused, BindRefused::InTheClear { .. }), "{host}");
            }
        }
    }
}
