//! Who is let in at the PostgreSQL port, and what each command needs.
//!
//! A token comes as a cleartext password over TLS. It is never asked for where it could be read on the way, so that no client
//! sends it there.

use crate::wire::{Inlet, Outlet};
use auth::{Gate, Grant, Refused, Scope};
use bytes::BytesMut;
use pq_proto::backend::{Report, encode};
use pq_proto::command::Command;
use pq_proto::frontend::{self, FrontendMessage};
use pq_proto::{Limits, SqlState};
use std::net::SocketAddr;

/// Most bytes of a message before anybody is let in.
const MESSAGE_BYTES_MAX: usize = 2 * auth::TOKEN_BYTES_MAX;

/// Asks for a token where one is needed, and judges it; `None` if the client went away. The error is for the client.
pub(crate) async fn admit(
    gate: &Gate,
    peer: SocketAddr,
    inlet: &mut Inlet,
    outlet: &Outlet,
) -> Option<Result<Grant, Report>> {
    let is_encrypted = outlet.is_encrypted();
    let judge = |token: Option<&str>| gate.admit(token, peer.ip(), is_encrypted).map_err(|why| refused(peer, &why));
    match gate.admit(None, peer.ip(), is_encrypted) {
        Ok(grant) => return Some(Ok(grant)),
        Err(Refused::Missing) => {}
        Err(_) => return Some(judge(None)),
    }
    let mut ask = BytesMut::new();
    encode::authentication_cleartext_password(&mut ask);
    outlet.send([ask.freeze()]);
    loop {
        if inlet.buffer.len() > MESSAGE_BYTES_MAX {
            return Some(Err(refused(peer, &Refused::Malformed)));
        }
        match frontend::decode(&mut inlet.buffer, Limits::SERVER) {
            Ok(Some(FrontendMessage::Password(body))) => {
                return Some(match frontend::password(&body) {
                    Ok(token) => judge(Some(token)),
                    Err(_) => Err(refused(peer, &Refused::Malformed)),
                });
            }
            Ok(Some(FrontendMessage::Terminate)) => return None,
            Ok(Some(_)) | Err(_) => {
                let text = "a password message is expected here";
                return Some(Err(Report::fatal(SqlState::PROTOCOL_VIOLATION, text)));
            }
            Ok(None) => match inlet.read_more().await {
                Ok(true) => {}
                Ok(false) | Err(_) => return None,
            },
        }
    }
}

fn count(peer: SocketAddr, why: &Refused) {
    metrics::counter!("seawall_auth_refused_total", "port" => "postgresql", "reason" => why.reason()).increment(1);
    tracing::info!(%peer, "refused: {why}");
}

/// A client that is not let in.
pub(crate) fn refused(peer: SocketAddr, why: &Refused) -> Report {
    count(peer, why);
    Report::fatal(SqlState::INVALID_PASSWORD, why.to_string())
}

/// Whether a grant is good for a command now; the error is for the client, who may go on with others.
pub(crate) fn permit(gate: &Gate, grant: &Grant, peer: SocketAddr, command: &Command) -> Result<(), Report> {
    let judge = || {
        grant.allows(needs(command), gate.now())?;
        match command {
            Command::InitCluster(options) => {
                let name = options.iter().find(|(key, _)| *key == "name").map_or("", |(_, value)| value);
                grant.admits_cluster(name)
            }
            _ => Ok(()),
        }
    };
    judge().map_err(|why| {
        count(peer, &why);
        Report::error(SqlState::INSUFFICIENT_PRIVILEGE, why.to_string())
    })
}

/// What a command needs. Whatever is not known to be harmless needs everything.
fn needs(command: &Command) -> Scope {
    match command {
        Command::StartReplication(start) if start.term.is_some() => Scope::Write,
        Command::StartWalPush(_) => Scope::Write,
        // Proposers bring members the newest record.
        Command::Members(options) if options.get("take").is_some() => Scope::Write,
        Command::StartReplication(_)
        | Command::IdentifySystem
        | Command::Show { .. }
        | Command::Set
        | Command::TimelineHistory { .. }
        | Command::TimelineStatus
        | Command::LogStatus { .. }
        | Command::ReadReplicationSlot { .. }
        | Command::CreateReplicationSlot { .. }
        | Command::DropReplicationSlot { .. }
        | Command::Unknown { .. } => Scope::Read,
        _ => Scope::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pq_proto::command;

    #[test]
    fn a_proposers_token_brings_records_and_changes_nothing_else() {
        let needs = |text: &str| needs(&command::parse(text).unwrap());
        for write in ["MEMBERS (take '2/1/1:00@a:1')", "START_WAL_PUSH", "START_REPLICATION 0/0 (term='3')"] {
            assert!(needs(write) == Scope::Write, "{write}");
        }
        for verb in ["join", "change", "accept", "rename", "drop"] {
            assert!(needs(&format!("MEMBERS ({verb} 'x')")) == Scope::Admin, "{verb}");
        }
        for admin in ["FENCE (lift '3')", "INIT_CLUSTER (name 'x')"] {
            assert!(needs(admin) == Scope::Admin, "{admin}");
        }
        for read in ["LOG_STATUS", "IDENTIFY_SYSTEM", "START_REPLICATION 0/0", "SHOW x"] {
            assert!(needs(read) == Scope::Read, "{read}");
        }
    }
}
