//! Tokens: what they say, how they are signed, and why they are refused.
//!
//! A token is a JWT signed with EdDSA (Ed25519). Claims: `scope` (`read`, `write`, `admin`), optionally `cluster` (a cluster's
//! name: the token is good for it alone), `exp` (seconds since 1970), `sub` (whose it is, for the log). Unknown claims mean
//! nothing. Every other algorithm is refused, `none` above all.

use crate::keys::{KeyError, PrivateKey, PublicKeys};
use crate::secret::Secret;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A longer token is refused unread.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// What a token allows; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Reading committed WAL, slots, status, metrics.
    Read,
    /// What proposers and safekeepers do: pushing WAL, votes, reading a term's log.
    Write,
    /// Beginning and changing clusters.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Admin => "admin",
        })
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        let all = [Scope::Read, Scope::Write, Scope::Admin];
        all.into_iter()
            .find(|scope| scope.to_string() == text)
            .ok_or_else(|| "a scope is read, write or admin".to_owned())
    }
}

/// What a token says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// What it allows.
    pub scope: Scope,
    /// The only cluster it is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// When it ends, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
}

/// Why somebody is not let in. One sentence for the client; it never holds the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No token at all.
    #[error("a token is needed here: give it as the password, or as HTTP bearer")]
    Missing,
    /// Sent where others can read it.
    #[error("tokens are taken over TLS only: use sslmode=verify-full (or https)")]
    InTheClear,
    /// Not a token of ours.
    #[error("the token is not a JWT signed with EdDSA that has a scope")]
    Malformed,
    /// Signed by somebody else.
    #[error("the token was not signed by a key this part knows")]
    UnknownKey,
    /// Too old.
    #[error("the token has expired: seawall token makes another")]
    Expired,
    /// For another cluster.
    #[error("the token is for cluster {0:?} only")]
    ForeignCluster(String),
    /// It allows less.
    #[error("the token allows {has}, this needs {needs}")]
    Scope {
        /// What it allows.
        has: Scope,
        /// What is needed.
        needs: Scope,
    },
}

impl Refused {
    /// Whether another token could help; else this one is good, but not for this.
    pub fn may_try_again(&self) -> bool {
        !matches!(self, Refused::ForeignCluster(_) | Refused::Scope { .. })
    }

    /// A word for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Refused::Missing => "missing",
            Refused::InTheClear => "in-the-clear",
            Refused::Malformed => "malformed",
            Refused::UnknownKey => "unknown-key",
            Refused::Expired => "expired",
            Refused::ForeignCluster(_) => "foreign-cluster",
            Refused::Scope { .. } => "scope",
        }
    }
}

/// What somebody who was let in may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// `None`: everybody is believed here.
    claims: Option<Claims>,
}

impl Grant {
    /// Where nobody is asked for a token.
    pub fn everything() -> Grant {
        Grant { claims: None }
    }

    /// The cluster the grant is limited to.
    pub fn cluster(&self) -> Option<&str> {
        self.claims.as_ref()?.cluster.as_deref()
    }

    /// Whose token it was.
    pub fn subject(&self) -> Option<&str> {
        self.claims.as_ref()?.sub.as_deref()
    }

    /// Whether this much may be done, at a moment in seconds since 1970. A connection may outlive its token; what it begins
    /// may not.
    pub fn allows(&self, needs: Scope, now: u64) -> Result<(), Refused> {
        let Some(claims) = &self.claims else { return Ok(()) };
        if claims.exp.is_some_and(|exp| exp <= now) {
            return Err(Refused::Expired);
        }
        if claims.scope < needs {
            return Err(Refused::Scope { has: claims.scope, needs });
        }
        Ok(())
    }

    /// Whether it is good for the cluster of this name.
    pub fn admits_cluster(&self, name: &str) -> Result<(), Refused> {
        match self.cluster().filter(|only| *only != name) {
            Some(other) => Err(Refused::ForeignCluster(other.to_owned())),
            None => Ok(()),
        }
    }
}

/// Reads and checks a token at a moment in seconds since 1970.
pub(crate) fn verify(token: &str, keys: &PublicKeys, now: u64) -> Result<Grant, Refused> {
    if token.is_empty() {
        return Err(Refused::Missing);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refused::Malformed);
    }
    let mut validation = Validation::new(Algorithm::EdDSA);
    // Checked below, against the caller's clock; a token need not end.
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    validation.validate_aud = false;
    let mut refused = Refused::UnknownKey;
    for key in &keys.0 {
        match jsonwebtoken::decode::<Claims>(token, key, &validation) {
            Ok(decoded) => {
                let grant = Grant { claims: Some(decoded.claims) };
                return grant.allows(Scope::Read, now).map(|()| grant);
            }
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
            Err(_) => refused = Refused::Malformed,
        }
    }
    Err(refused)
}

impl Claims {
    /// The token with these claims.
    pub fn sign(&self, key: &PrivateKey) -> Result<Secret, KeyError> {
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), self, &key.0);
        token.map(Secret::new).map_err(|_| KeyError::NoKey { file: "the private key".into(), what: "private" })
    }
}
