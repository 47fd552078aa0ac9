//! How is everything? The parts are asked over HTTP, and what they say is brought together per cluster.
//!
//! A cluster is protected only if its proposer says so: without a proposer that answers nobody knows, and that is UNPROTECTED. What
//! the parts say is read leniently, because they may be of the version before or after ours.

mod report;
mod table;

pub use report::{ArchiveReport, ClusterReport, Finding, PrimaryReport, Report, SafekeeperReport};

use crate::up::UpFile;
use config::StatusSource;
use report::{Part, Proposer, Safekeeper};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How long a part may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing runs there.
    #[error("no seawall up is running in {} (there is no up.json); start it, or name a part with --http", .0.display())]
    NotUp(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    UpFile {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Asks every part and reports. A part that does not answer is a problem in the report, not an error.
pub async fn status(source: &StatusSource) -> Result<Report, Error> {
    let (addresses, fallback) = match source {
        StatusSource::Parts(parts) => (parts.iter().map(ToString::to_string).collect(), None),
        StatusSource::DataDir(dir) => {
            let file = UpFile::read(dir).map_err(|source| Error::UpFile { path: dir.join("up.json"), source })?;
            let file = file.ok_or_else(|| Error::NotUp(dir.clone()))?;
            let safekeepers = file.safekeepers.into_iter().map(|safekeeper| safekeeper.http);
            let addresses: Vec<String> = std::iter::once(file.http.clone()).chain(safekeepers).collect();
            (addresses, Some(file.http))
        }
    };
    let asking: Vec<_> = addresses.iter().cloned().map(|address| tokio::spawn(ask(address))).collect();
    let mut parts = Vec::new();
    let mut problems = Vec::new();
    for (task, address) in asking.into_iter().zip(&addresses) {
        match task.await {
            Ok(Ok(part)) => parts.push(part),
            Ok(Err(problem)) if fallback.as_ref() == Some(address) => problems.push(format!("the proposer: {problem}")),
            Ok(Err(problem)) => problems.push(problem),
            Err(error) => problems.push(format!("{address}: {error}")),
        }
    }
    Ok(Report::new(parts, problems))
}

/// The proposer's own word on one cluster, for whoever watches it continuously.
pub(crate) async fn proposer(address: &str) -> Result<Proposer, String> {
    match ask(address.to_owned()).await? {
        Part::Proposer(proposer) => Ok(*proposer),
        Part::Safekeeper(_) => Err(format!("{address} is a safekeeper, not a proposer")),
    }
}

/// What the environment says we show, and whom we trust.
fn access() -> Result<http_api::Access, auth::OutgoingError> {
    let outgoing = crate::process::outgoing_from_env()?;
    let bearer = outgoing.token().and_then(|token| http_api::Bearer::new(token.reveal()));
    Ok(http_api::Access { tls: outgoing.client_tls()?, bearer })
}

async fn ask(address: String) -> Result<Part, String> {
    let access = access().map_err(|error| error.to_string())?;
    let response = http_api::get_json_with(&address, "/v1/status", ANSWER_WITHIN, &access).await;
    let response = response.map_err(|error| error.to_string())?;
    if matches!(response.code, 401 | 403) {
        let said = response.body.get("error").and_then(Value::as_str).unwrap_or("a token is needed");
        return Err(format!("{address} refuses: {said}; SEAWALL_TOKEN holds the token that is shown"));
    }
    if response.code != 200 {
        return Err(format!("http://{address}/v1/status answered {}", response.code));
    }
    let unreadable = |error: serde_json::Error| format!("http://{address}/v1/status cannot be understood: {error}");
    match response.body.get("kind").and_then(Value::as_str) {
        Some("proposer") => serde_json::from_value::<Proposer>(response.body)
            .map(|part| Part::Proposer(Box::new(part)))
            .map_err(unreadable),
        Some("safekeeper") => {
            serde_json::from_value::<Safekeeper>(response.body).map(Part::Safekeeper).map_err(unreadable)
        }
        _ => Err(format!("http://{address}/ is no part of Seawall")),
    }
}
