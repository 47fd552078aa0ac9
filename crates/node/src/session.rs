//! A connection from its first byte to its last: start-up, then one command after another.

use crate::queries::{self, Answer};
use crate::registry::{Choice, Registry};
use crate::wire::{Inlet, Outlet};
use crate::{push, reading};
use bytes::BytesMut;
use pq_proto::backend::{Report, encode};
use pq_proto::command::{self, Command};
use pq_proto::frontend::{self, FrontendMessage};
use pq_proto::startup::{self, FirstPacket, Startup};
use pq_proto::{Limits, SqlState};
use quorum_proto::PushOptions;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;

/// A peer that has not finished its start-up by then is sent away.
const STARTUP_DEADLINE: Duration = Duration::from_secs(10);

/// Serves one connection until it ends.
pub(crate) async fn serve(registry: Rc<Registry>, stream: TcpStream, peer: SocketAddr, number: u32) {
    let (read, write) = stream.into_split();
    let outlet = Outlet::new(write);
    let mut inlet = Inlet::new(read);
    let started = tokio::time::timeout(STARTUP_DEADLINE, start_up(&mut inlet, &outlet)).await;
    match started {
        Ok(Ok(Some(startup))) => run(&registry, &startup, peer, number, &mut inlet, &outlet).await,
        Ok(Ok(None)) => {}
        Ok(Err(text)) => {
            tracing::info!(%peer, "connection refused: {text}");
            send_error(&outlet, &Report::fatal(SqlState::PROTOCOL_VIOLATION, text));
        }
        Err(_) => tracing::info!(%peer, "connection closed: no start-up packet within {STARTUP_DEADLINE:?}"),
    }
    outlet.finish();
    // A peer that does not read its last message is not waited for.
    if tokio::time::timeout(STARTUP_DEADLINE, outlet.flushed()).await.is_err() {
        outlet.fail();
    }
}

/// Reads up to the start-up message; `None` if the connection ended or asked for nothing more.
async fn start_up(inlet: &mut Inlet, outlet: &Outlet) -> Result<Option<Startup>, String> {
    loop {
        match startup::decode(&mut inlet.buffer) {
            Ok(Some(FirstPacket::Ssl | FirstPacket::GssEnc)) => {
                if !inlet.buffer.is_empty() {
                    return Err("bytes were sent behind a request for encryption, before its answer".to_owned());
                }
                outlet.send([bytes::Bytes::from_static(b"N")]);
            }
            Ok(Some(FirstPacket::Startup(startup))) => return Ok(Some(startup)),
            Ok(Some(FirstPacket::Cancel { .. })) => return Ok(None),
            Ok(Some(FirstPacket::DirectTls)) => return Err("this port does not speak TLS".to_owned()),
            Ok(None) => {
                if !inlet.read_more().await.unwrap_or(false) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn run(
    registry: &Rc<Registry>,
    startup: &Startup,
    peer: SocketAddr,
    number: u32,
    inlet: &mut Inlet,
    outlet: &Rc<Outlet>,
) {
    let choice = match Choice::from_options(&startup.options()) {
        Ok(choice) => choice,
        Err(text) => return send_error(outlet, &Report::fatal(SqlState::INVALID_PARAMETER_VALUE, text)),
    };
    let application_name = startup.get("application_name").unwrap_or_default().to_owned();
    greet(registry, startup, &choice, number, outlet);
    loop {
        let message = match frontend::decode(&mut inlet.buffer, Limits::SERVER) {
            Ok(Some(message)) => message,
            Ok(None) => match inlet.read_more().await {
                Ok(true) => continue,
                Ok(false) | Err(_) => return,
            },
            Err(error) => {
                tracing::info!(%peer, "connection closed: {error}");
                return send_error(outlet, &Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()));
            }
        };
        match message {
            FrontendMessage::Query(text) => match command::parse(&text) {
                Ok(Command::StartWalPush(options)) => {
                    let options: Vec<_> = options.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                    let session = PushOptions::parse(&options)
                        .map_err(|error| Report::error(SqlState::INVALID_PARAMETER_VALUE, error.to_string()))
                        .and_then(|options| Ok((registry.choose_for_push(&choice, &options)?, options)));
                    match session {
                        Ok((cluster, options)) => {
                            return push::serve(cluster, options, peer.to_string(), inlet, outlet).await;
                        }
                        Err(report) => answer_error(outlet, &report),
                    }
                }
                Ok(Command::StartReplication(command)) => match registry.choose(&choice) {
                    Ok(cluster) => {
                        let reader =
                            reading::Reader { peer: peer.to_string(), application_name: application_name.clone() };
                        if !reading::serve(cluster, command, reader, inlet, outlet).await {
                            return;
                        }
                    }
                    Err(report) => answer_error(outlet, &report),
                },
                Ok(command) => match queries::answer(registry, &choice, &application_name, command) {
                    Answer::Bytes(bytes) => outlet.send([bytes.freeze()]),
                    Answer::Error(report) => answer_error(outlet, &report),
                },
                Err(error) => answer_error(outlet, &Report::error(error.sqlstate(), error.to_string())),
            },
            FrontendMessage::Terminate => return,
            FrontendMessage::Sync => {
                let mut bytes = BytesMut::new();
                encode::ready_for_query(&mut bytes);
                outlet.send([bytes.freeze()]);
            }
            FrontendMessage::CopyData(_) | FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => {
                // What was still under way when a COPY ended on our side.
            }
            FrontendMessage::Password(_) | FrontendMessage::Other(_) => {
                let text = "only simple queries are understood here: the extended query protocol is not supported";
                return send_error(outlet, &Report::fatal(SqlState::PROTOCOL_VIOLATION, text));
            }
        }
        outlet.uncongested().await;
        if outlet.has_failed() {
            return;
        }
    }
}

fn greet(registry: &Registry, startup: &Startup, choice: &Choice, number: u32, outlet: &Outlet) {
    let mut bytes = BytesMut::with_capacity(512);
    if let Some(negotiation) = startup.negotiation() {
        encode::negotiate_protocol_version(&negotiation, &mut bytes);
    }
    encode::authentication_ok(&mut bytes);
    let identity = registry.identity();
    let version = registry.choose(choice).map_or(0, |cluster| cluster.pg_version());
    for (name, value) in [
        ("client_encoding", "UTF8".to_owned()),
        ("integer_datetimes", "on".to_owned()),
        ("server_version", server_version(version)),
        ("seawall_log", "1".to_owned()),
        ("seawall_node_id", identity.node.to_string()),
        ("seawall_disk_id", identity.disk.to_string()),
    ] {
        encode::parameter_status(name, &value, &mut bytes);
    }
    encode::backend_key_data(number, 0, &mut bytes);
    encode::ready_for_query(&mut bytes);
    outlet.send([bytes.freeze()]);
}

/// The primary's version as it announces it; the oldest supported one while it is not known, because clients refuse servers
/// that are newer than they are.
fn server_version(version_num: u32) -> String {
    if version_num == 0 { "13.0".to_owned() } else { format!("{}.{}", version_num / 10_000, version_num % 10_000) }
}

fn send_error(outlet: &Outlet, report: &Report) {
    let mut bytes = BytesMut::new();
    encode::error_response(report, &mut bytes);
    outlet.send([bytes.freeze()]);
}

fn answer_error(outlet: &Outlet, report: &Report) {
    let mut bytes = BytesMut::new();
    encode::error_response(report, &mut bytes);
    encode::ready_for_query(&mut bytes);
    outlet.send([bytes.freeze()]);
}
