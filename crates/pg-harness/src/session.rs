//! One client session whose warnings are seen: PostgreSQL answers a cancelled wait for synchronous replication with success *and* a
//! warning, which is no acknowledgement.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// Pause before a client that lost its connection makes another.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Whether a warning came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Warned(Arc<AtomicBool>);

impl Warned {
    /// Whether one came since this was asked last. The server sends a warning before the command's completion, so it is seen before the
    /// command returns.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// Connects, and runs `work` on the session until either ends; an error says only that the fate of what was under way is open.
pub(crate) async fn on_one_connection<W>(conninfo: &str, work: impl FnOnce(Client, Warned) -> W) -> Result<()>
where
    W: Future<Output = Result<()>>,
{
    let connecting = tokio_postgres::connect(conninfo, NoTls);
    let (client, mut connection) = tokio::time::timeout(CONNECT_WITHIN, connecting).await??;
    let warned = Warned::default();
    let seen = warned.clone();
    let messages = async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message?
                && notice.severity() == "WARNING"
            {
                seen.0.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    tokio::select! {
        biased;
        ended = messages => ended,
        ended = work(client, warned) => ended,
    }
}

/// Waits a little before the next connection, or until the server to talk to is another. False if there is none any more.
pub(crate) async fn pause(conninfo: &mut watch::Receiver<Option<String>>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(RECONNECT_AFTER) => true,
        changed = conninfo.changed() => changed.is_ok(),
    }
}
