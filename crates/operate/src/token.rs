//! Making tokens.

use auth::{Claims, KeyError, PrivateKey, Scope, Secret};
use config::TokenFlags;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A scope nobody knows.
    #[error("{given:?} is no scope: {expected}")]
    Scope {
        /// What was given.
        given: String,
        /// What there is.
        expected: String,
    },
    /// The private key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Makes the token, and returns what it says too.
pub fn token(flags: &TokenFlags) -> Result<(Secret, Claims), Error> {
    let scope: Scope = flags
        .scope
        .parse()
        .map_err(|expected| Error::Scope { given: flags.scope.chars().take(40).collect(), expected })?;
    let since_1970 = |days: u32| {
        let end = SystemTime::now() + Duration::from_secs(86_400) * days;
        end.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    };
    let (cluster, sub) = (flags.cluster.clone(), flags.subject.clone());
    let claims = Claims { scope, cluster, exp: flags.days.map(since_1970), sub };
    Ok((claims.sign(&PrivateKey::load(&flags.key)?)?, claims))
}
