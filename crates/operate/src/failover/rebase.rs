//! `rebase`: an era of a cluster ends, the next begins under its name.
//!
//! Every safekeeper must answer, as for `init`. First the era that ends is completed and fenced until somebody lifts the fence, so that
//! nothing is acknowledged in it any more while another acknowledges in the next; with `abandon` that is left out, because a majority of
//! its disks is gone for good, and with it the possibility. Then it gets another name, and stays readable; then the next begins. Each step
//! can be done twice: what broke off is finished by running it again.

use super::{Error, fence};
use crate::init::begin_era;
use crate::members::{rows, tell};
use config::{Conninfo, FailoverOptions, InitOptions};
use lsn::ClusterId;
use quorum_proto::{LogStatusRow, MembersCommand};

/// An era that has begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Era {
    /// The cluster's name.
    pub cluster: String,
    /// The ids of the new era.
    pub id: ClusterId,
    /// The name of the era that ended; `None` if that was done by a run before.
    pub ended: Option<String>,
}

/// Ends the era of the cluster that the options name, and begins the next.
pub async fn rebase(options: &FailoverOptions, primary: Option<&Conninfo>, abandon: bool) -> Result<Era, Error> {
    let name = options.cluster.clone().ok_or(Error::NoName)?;
    let mut found: Vec<(config::Address, Vec<LogStatusRow>)> = Vec::new();
    for address in &options.safekeepers {
        let (_, _, rows) = rows(address).await.map_err(|reason| {
            Error::Rebase(format!("safekeeper {address} does not answer: {reason}; all of them must"))
        })?;
        found.push((address.clone(), rows));
    }
    let eras = |row: &&LogStatusRow| row.name == name.as_str() || is_era_of(&row.name, name.as_str());
    let known: Vec<&LogStatusRow> = found.iter().flat_map(|(_, rows)| rows).filter(eras).collect();
    let Some(tenant) = known.iter().map(|row| row.cluster.tenant).next() else {
        return Err(Error::Rebase(format!("no safekeeper knows a cluster {name}: begin one with seawall init")));
    };
    if known.iter().any(|row| row.cluster.tenant != tenant) {
        return Err(Error::Rebase(format!("the safekeepers know different clusters under the name {name}")));
    }
    // An era without WAL under the name is one that a run before has just begun.
    let ending = known.iter().find(|row| row.name == name.as_str() && row.flush.is_valid()).map(|row| row.cluster);
    let mut ended = None;
    if let Some(id) = ending {
        if !abandon {
            fence(options, None, None).await?;
        }
        // One run may have renamed it on some already.
        let before =
            known.iter().find(|row| row.cluster == id && row.name != name.as_str()).map(|row| row.name.clone());
        let mut numbers: Vec<_> = known.iter().map(|row| row.cluster.timeline).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let new = before.unwrap_or_else(|| format!("{name}-era{}", numbers.len()));
        for (address, rows) in &found {
            if rows.iter().any(|row| row.cluster == id) {
                tell(address, id, &MembersCommand::Rename(new.clone())).await.map_err(|reason| {
                    Error::Rebase(format!("safekeeper {address}: {reason}; run it again to go on"))
                })?;
            }
        }
        tracing::info!(era = %id, name = new, "the era has ended");
        ended = Some(new);
    }
    let begin = InitOptions {
        cluster: name.clone(),
        safekeepers: options.safekeepers.clone(),
        primary: primary.cloned().or_else(|| options.primary.clone()),
        json: options.json,
    };
    let outcome = begin_era(&begin, tenant).await?;
    Ok(Era { cluster: name.to_string(), id: outcome.record.cluster, ended })
}

/// Whether this is the name of an era of a cluster that has ended.
fn is_era_of(name: &str, cluster: &str) -> bool {
    let number = name.strip_prefix(cluster).and_then(|rest| rest.strip_prefix("-era"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eras_are_known_by_their_names() {
        assert!(is_era_of("orders-era1", "orders") && is_era_of("orders-era12", "orders"));
        for other in ["orders", "orders-era", "orders-era1x", "orders2-era1", "order-era1"] {
            assert!(!is_era_of(other, "orders"), "{other}");
        }
    }
}
