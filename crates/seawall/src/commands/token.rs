//! `seawall token`: makes a token.

use super::{failed, print};
use operate::process::Exit;
use operate::token as make;
use serde_json::json;

pub(crate) const EXAMPLES: &str = "\
Example:
  openssl genpkey -algorithm ed25519 -out private.pem
  openssl pkey -in private.pem -pubout -out /etc/seawall/keys/ops.pem
  seawall token --key private.pem --scope read --cluster orders --days 365 > standby.token";

pub(crate) fn token(flags: &config::TokenFlags) -> Exit {
    match make::token(flags) {
        Ok((token, claims)) if flags.json => {
            let (scope, cluster) = (claims.scope.to_string(), claims.cluster);
            let (exp, sub) = (claims.exp, claims.sub);
            print(
                &json!({"token": token.reveal(), "scope": scope, "cluster": cluster, "exp": exp, "sub": sub})
                    .to_string(),
            );
            Exit::Done
        }
        Ok((token, _)) => {
            print(token.reveal());
            Exit::Done
        }
        Err(error @ make::Error::Scope { .. }) => failed(&error, Exit::Usage),
        Err(error) => failed(&error, Exit::Failed),
    }
}
