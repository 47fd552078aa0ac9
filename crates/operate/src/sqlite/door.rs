//! Who is let in at the HTTP port of `seawall replicate`: whoever shows a token that allows reading, where keys are given.

use auth::Gate;
use http_api::{Asking, Door, Turned};
use rustls::ServerConfig;
use std::sync::Arc;

/// The gate of the process, as HTTP asks it.
#[derive(Debug)]
pub(super) struct HttpDoor(pub(super) Gate);

impl Door for HttpDoor {
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.0.tls()
    }

    fn admit(&self, asking: &Asking<'_>) -> Result<(), Turned> {
        let judged = self.0.admit_reading(asking.bearer, asking.peer, asking.is_encrypted, asking.cluster);
        judged.map_err(|refused| {
            metrics::counter!("seawall_auth_refused_total", "port" => "http", "reason" => refused.reason())
                .increment(1);
            tracing::info!(peer = %asking.peer, "HTTP request refused: {refused}");
            Turned { may_try_again: refused.may_try_again(), sentence: refused.to_string() }
        })
    }
}
