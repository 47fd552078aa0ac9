//! Who is let in at the HTTP port: whoever shows a token that allows reading.

use auth::{Gate, Refused, Scope};
use http_api::{Asking, Door, Turned};
use rustls::ServerConfig;
use std::sync::Arc;

/// The gate of the process, as HTTP asks it.
#[derive(Debug)]
pub(crate) struct HttpDoor(pub(crate) Arc<Gate>);

impl Door for HttpDoor {
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.0.tls()
    }

    fn admit(&self, asking: &Asking<'_>) -> Result<(), Turned> {
        let judge = || {
            let grant = self.0.admit(asking.bearer, asking.peer, asking.is_encrypted)?;
            grant.allows(Scope::Read, self.0.now())?;
            // A token for one cluster shows nothing of the others.
            match (grant.cluster(), asking.cluster) {
                (Some(only), None) => Err(Refused::ForeignCluster(only.to_owned())),
                (_, Some(cluster)) => grant.admits_cluster(cluster),
                (None, None) => Ok(()),
            }
        };
        judge().map_err(|refused| {
            metrics::counter!("seawall_auth_refused_total", "port" => "http", "reason" => refused.reason())
                .increment(1);
            tracing::info!(peer = %asking.peer, "HTTP request refused: {refused}");
            let may_try_again = !matches!(refused, Refused::ForeignCluster(_) | Refused::Scope { .. });
            Turned { may_try_again, sentence: refused.to_string() }
        })
    }
}
