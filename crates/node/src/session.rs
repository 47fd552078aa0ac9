//! A connection from its first byte to its last: start-up, then one command after another.

use crate::queries::{self, Answer};
use crate::registry::{Choice, Registry};
use crate::wire::{Inlet, Outlet};
use crate::{admission, members, push, reading, slots};
use auth::{Gate, Grant};
use bytes::BytesMut;
use pq_proto::backend::{Report, encode};
use pq_proto::command::{self, Command};
use pq_proto::frontend::{self, FrontendMessage};
use pq_proto::startup::{self, FirstPacket, Startup};
use pq_proto::{Limits, SqlState};
use quorum_proto::{FenceCommand, PushOptions};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// A peer that has not finished its start-up by then is sent away.
const STARTUP_DEADLINE: Duration = Duration::from_secs(10);

/// Serves one connection until it ends.
pub(crate) async fn serve(registry: Rc<Registry>, gate: Arc<Gate>, stream: TcpStream, peer: SocketAddr, number: u32) {
    let (read, write) = stream.into_split();
    let outlet = Outlet::new(write);
    let mut inlet = Inlet::new(read);
    let begin = async {
        let Some(startup) = start_up(&gate, &mut inlet, &outlet).await? else { return Ok(None) };
        let Some(grant) = admission::admit(&gate, peer, &mut inlet, &outlet).await else { return Ok(None) };
        Ok::<_, Report>(Some((startup, grant?)))
    };
    let started = tokio::time::timeout(STARTUP_DEADLINE, begin).await;
    match started {
        Ok(Ok(Some((startup, grant)))) => {
            let client = Client { peer, number, gate: &gate, grant };
            run(&registry, &startup, &client, &mut inlet, &outlet).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(report)) => {
            tracing::info!(%peer, "connection refused: {}", report.message);
            send_error(&outlet, &report);
        }
        Err(_) => tracing::info!(%peer, "connection closed: no start-up packet within {STARTUP_DEADLINE:?}"),
    }
    outlet.finish();
    // A peer that does not read its last message is not waited for.
    if tokio::time::timeout(STARTUP_DEADLINE, outlet.flushed()).await.is_err() {
        outlet.fail();
    }
}

/// One client after it was let in.
struct Client<'a> {
    peer: SocketAddr,
    /// Of its connection.
    number: u32,
    gate: &'a Gate,
    grant: Grant,
}

/// Reads up to the start-up message, through TLS if the client wants it; `None` if the connection ended or asked for nothing more.
async fn start_up(gate: &Gate, inlet: &mut Inlet, outlet: &Rc<Outlet>) -> Result<Option<Startup>, Report> {
    let violation = |text: String| Report::fatal(SqlState::PROTOCOL_VIOLATION, text);
    loop {
        let tls = gate.tls().filter(|_| !outlet.is_encrypted());
        match startup::decode(&mut inlet.buffer) {
            Ok(Some(first @ (FirstPacket::Ssl | FirstPacket::GssEnc))) => {
                if !inlet.buffer.is_empty() {
                    let text = "bytes were sent behind a request for encryption, before its answer";
                    return Err(violation(text.to_owned()));
                }
                match tls.filter(|_| first == FirstPacket::Ssl) {
                    None => outlet.send([bytes::Bytes::from_static(b"N")]),
                    Some(config) => {
                        outlet.send([bytes::Bytes::from_static(b"S")]);
                        inlet.start_tls(config, outlet).map_err(|error| violation(error.to_string()))?;
                    }
                }
            }
            Ok(Some(FirstPacket::Startup(startup))) => return Ok(Some(startup)),
            Ok(Some(FirstPacket::Cancel { .. })) => return Ok(None),
            Ok(Some(FirstPacket::DirectTls)) => match tls {
                None => return Err(violation("this port does not speak TLS".to_owned())),
                Some(config) => {
                    inlet.start_tls(config, outlet).map_err(|error| violation(error.to_string()))?;
                }
            },
            Ok(None) => {
                if !inlet.read_more().await.unwrap_or(false) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(violation(error.to_string())),
        }
    }
}

async fn run(registry: &Rc<Registry>, startup: &Startup, client: &Client<'_>, inlet: &mut Inlet, outlet: &Rc<Outlet>) {
    let Client { peer, number, grant, .. } = client;
    let (peer, number) = (*peer, *number);
    let mut choice = match Choice::from_options(&startup.options()) {
        Ok(choice) => choice,
        Err(text) => return send_error(outlet, &Report::fatal(SqlState::INVALID_PARAMETER_VALUE, text)),
    };
    if let Err(why) = choice.limit_to(grant) {
        return send_error(outlet, &admission::refused(peer, &why));
    }
    let application_name = startup.get("application_name").unwrap_or_default().to_owned();
    let timeout = reading::asked_timeout(&startup.options());
    if is_stock_reader(startup, &application_name)
        && let Some(reason) = registry.choose(&choice).ok().and_then(|cluster| cluster.reader_refusal())
    {
        // Said before the greeting, and with this code, because then libpq goes on to its next host.
        return send_error(outlet, &Report::fatal(SqlState::CANNOT_CONNECT_NOW, reason));
    }
    greet(registry, startup, &choice, number, outlet);
    let _temporary = TemporarySlots { registry, number };
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
            FrontendMessage::Query(text) => match permitted(client, &text) {
                Ok(Command::StartWalPush(options)) => {
                    let options: Vec<_> = options.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                    let session = PushOptions::parse(&options)
                        .map_err(|error| Report::error(SqlState::INVALID_PARAMETER_VALUE, error.to_string()))
                        .and_then(|mut options| {
                            // Nobody makes a cluster with a token that is for another.
                            options.allow_creation &= grant.cluster().is_none();
                            Ok((registry.choose_for_push(&choice, &options)?, options))
                        });
                    match session {
                        Ok((cluster, options)) => {
                            return push::serve(cluster, options, peer.to_string(), inlet, outlet).await;
                        }
                        Err(report) => answer_error(outlet, &report),
                    }
                }
                Ok(Command::StartReplication(command)) => match registry.choose(&choice) {
                    Ok(cluster) => {
                        let reader = reading::Reader {
                            peer: peer.to_string(),
                            application_name: application_name.clone(),
                            timeout,
                        };
                        if !reading::serve(cluster, command, reader, inlet, outlet).await {
                            return;
                        }
                    }
                    Err(report) => answer_error(outlet, &report),
                },
                Ok(command @ (Command::CreateReplicationSlot { .. } | Command::DropReplicationSlot { .. })) => {
                    match registry.choose(&choice) {
                        Ok(cluster) => match slots::answer(&cluster, command, number, inlet).await {
                            Some(Ok(bytes)) => outlet.send([bytes]),
                            Some(Err(report)) => answer_error(outlet, &report),
                            None => return,
                        },
                        Err(report) => answer_error(outlet, &report),
                    }
                }
                Ok(Command::Members(options)) => match members::answer(registry, &choice, &options).await {
                    Ok(bytes) => outlet.send([bytes]),
                    Err(report) => answer_error(outlet, &report),
                },
                Ok(Command::Fence(options)) => match fence(registry, &choice, &options).await {
                    Ok(bytes) => outlet.send([bytes]),
                    Err(report) => answer_error(outlet, &report),
                },
                Ok(command) => match queries::answer(registry, &choice, &application_name, command) {
                    Answer::Bytes(bytes) => outlet.send([bytes.freeze()]),
                    Answer::Error(report) => answer_error(outlet, &report),
                },
                Err(report) => answer_error(outlet, &report),
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

/// Answers FENCE once what it asks for is durable.
async fn fence(registry: &Registry, choice: &Choice, options: &command::Options) -> Result<bytes::Bytes, Report> {
    let options: Vec<_> = options.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let command = FenceCommand::parse(&options)
        .map_err(|error| Report::error(SqlState::INVALID_PARAMETER_VALUE, error.to_string()))?;
    registry.choose(choice)?.fence(command).await?;
    let mut bytes = BytesMut::new();
    encode::command_complete("FENCE", &mut bytes);
    encode::ready_for_query(&mut bytes);
    Ok(bytes.freeze())
}

/// The command, if the client may give it.
fn permitted(client: &Client<'_>, text: &str) -> Result<Command, Report> {
    let command = command::parse(text).map_err(|error| Report::error(error.sqlstate(), error.to_string()))?;
    admission::permit(client.gate, &client.grant, client.peer, &command).map(|()| command)
}

/// Whether this is a client of PostgreSQL's that reads: a standby, `pg_receivewal`. Proposers, safekeepers and our own tools
/// ask for more than committed WAL and are never sent elsewhere.
fn is_stock_reader(startup: &Startup, application_name: &str) -> bool {
    let ours = ["seawall", "safekeeper", "wal_proposer"].iter().any(|name| application_name.starts_with(name));
    let replication = startup.get("replication").unwrap_or_default().to_ascii_lowercase();
    !ours && ["1", "on", "true", "yes", "database"].contains(&replication.as_str())
}

/// A connection's temporary slots go with it.
struct TemporarySlots<'a> {
    registry: &'a Registry,
    number: u32,
}

impl Drop for TemporarySlots<'_> {
    fn drop(&mut self) {
        self.registry.all().iter().for_each(|cluster| cluster.end_connection(self.number));
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
        ("server_version", queries::server_version(version)),
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
