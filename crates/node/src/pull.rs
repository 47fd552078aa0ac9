//! Fetching WAL from another safekeeper, or, where none has it, from the archive.
//!
//! A peer is asked only if it has processed the leader's Elected message: its term and the last term of its history are the
//! leader's, and the read is guarded by that term. Then (term, LSN) names the byte, and what it sends is ours.

use crate::cluster::Cluster;
use consensus::Member;
use lsn::{Lsn, Term};
use pg_conn::{ConnInfo, Connection, StartupExtra};
use pq_proto::command::{Command, StartReplication};
use pq_proto::frontend;
use quorum_proto::LogStatusRow;
use std::rc::Rc;
use std::time::{Duration, Instant};
use walreceiver::{End, Event, Receiver, Timeouts};

/// A peer that says nothing for so long is left for another.
const SILENCE: Duration = Duration::from_secs(10);

/// Bytes read from the archive at a time.
const ARCHIVE_READ_BYTES: usize = 256 << 10;

/// Begins to pull; the keeper is told when it ended.
pub(crate) fn start(cluster: Rc<Cluster>, hints: &[String], term: Term, from: Lsn, to: Lsn, members: &[Member]) {
    // Whoever answers is judged by its log, so an address is only a place to ask.
    let mut addresses: Vec<(String, u16)> = members.iter().map(|member| (member.host.clone(), member.port)).collect();
    addresses.extend(hints.iter().filter_map(|hint| {
        let (host, port) = hint.rsplit_once(':')?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
    }));
    tokio::task::spawn_local(async move {
        let mut problems = Vec::new();
        for (host, port) in &addresses {
            match pull_from(&cluster, host, *port, term, to).await {
                Ok(()) => {
                    cluster.pull_ended(Ok(()));
                    return;
                }
                Err(problem) => problems.push(format!("{host}:{port}: {problem}")),
            }
        }
        match pull_from_archive(&cluster, term, to).await {
            Ok(()) => return cluster.pull_ended(Ok(())),
            Err(problem) => problems.push(format!("the archive: {problem}")),
        }
        let problem = problems.join("; ");
        tracing::warn!(cluster = cluster.name(), %from, %to, "cannot catch up: {problem}");
        cluster.pull_ended(Err(problem));
    });
}

async fn pull_from(cluster: &Rc<Cluster>, host: &str, port: u16, term: Term, to: Lsn) -> Result<(), String> {
    let mut connection = connect(cluster, host, port).await?;
    let row = ask_status(&mut connection).await?;
    // An earlier peer may have brought part of it.
    let from = cluster.view().written;
    keeper::check_donor(&row, term, from)?;
    // Without a TLI the log is read from one to the next.
    let command = StartReplication { tli: None, term: Some(term), ..StartReplication::new(from, lsn::Tli(1)) };
    let mut receiver =
        Receiver::new(command, Timeouts { status_interval: SILENCE / 2, silence: SILENCE }, Instant::now());
    tracing::info!(cluster = cluster.name(), peer = host, port, %from, %to, "catching up from a peer");
    frontend::encode_query(&receiver.command(), connection.writer().buffer()).map_err(|error| error.to_string())?;
    connection.writer().flush().await.map_err(|error| error.to_string())?;
    loop {
        let message = tokio::time::timeout(SILENCE, connection.recv())
            .await
            .map_err(|_| format!("it was silent for {SILENCE:?}"))?
            .map_err(|error| error.to_string())?;
        match receiver.handle_message(Instant::now(), message).map_err(|error| error.to_string())? {
            Some(Event::Wal { begin, bytes, .. }) => {
                let end = begin.saturating_add(bytes.len() as u64);
                cluster.room(bytes.len()).await;
                if !cluster.hand_in_pulled(term, begin, bytes) {
                    // Either everything wanted is here, or a new leader decides what comes next.
                    connection.close().await;
                    return Ok(());
                }
                receiver.report(end, end, Lsn::INVALID);
            }
            Some(Event::EndOfTli(_)) => return Err("its TLI ends below the leader's commit LSN".to_owned()),
            Some(Event::Ended(End::Error(report))) => return Err(report.message),
            Some(Event::Ended(_)) => return Err("it ended the stream".to_owned()),
            Some(Event::Started | Event::Keepalive { .. }) | None => {}
        }
        while let Some(transmit) = receiver.poll_transmit(Instant::now(), std::time::SystemTime::now().into()) {
            transmit.encode(connection.writer().buffer());
        }
        connection.writer().flush().await.map_err(|error| error.to_string())?;
    }
}

/// What no peer has, or none can be asked for. Only committed WAL is archived, and the leader's log has all of that: its bytes are ours.
async fn pull_from_archive(cluster: &Rc<Cluster>, term: Term, to: Lsn) -> Result<(), String> {
    let mut told = false;
    loop {
        let from = cluster.view().written;
        if from >= to {
            return Ok(());
        }
        let Some(bytes) = cluster.read_archived(from, ARCHIVE_READ_BYTES).await? else {
            // Part of it may have come; then a peer has the rest.
            return if told { Ok(()) } else { Err(format!("it has nothing at {from}, or cannot be read here")) };
        };
        if !std::mem::replace(&mut told, true) {
            tracing::info!(cluster = cluster.name(), %from, %to, "catching up from the archive");
        }
        cluster.room(bytes.len()).await;
        if !cluster.hand_in_pulled(term, from, bytes) {
            return Ok(());
        }
    }
}

async fn connect(cluster: &Cluster, host: &str, port: u16) -> Result<Connection, String> {
    let text = format!("host='{host}' port={port} user=safekeeper dbname=replication connect_timeout=5");
    let info = shown(&text, host, cluster.outgoing())?;
    let id = cluster.id();
    let extra = StartupExtra {
        replication: true,
        application_name: Some("safekeeper".to_owned()),
        options: Some(format!("-c tenant_id={} -c timeline_id={}", id.tenant_hex(), id.timeline_hex())),
        dbname: None,
    };
    pg_conn::connect(&info, &extra).await.map_err(|error| error.to_string())
}

/// A conninfo with what we show to this host.
pub(crate) fn shown(text: &str, host: &str, outgoing: &auth::Outgoing) -> Result<ConnInfo, String> {
    let mut info: ConnInfo = text.parse().map_err(|error: pg_conn::ConnInfoError| error.to_string())?;
    for (key, value) in outgoing.settings(host).map_err(|error| error.to_string())? {
        info = info.with(key, &value).map_err(|error| error.to_string())?;
    }
    Ok(info)
}

async fn ask_status(connection: &mut Connection) -> Result<LogStatusRow, String> {
    let query = Command::LogStatus { since: None }.to_string();
    let rows = tokio::time::timeout(SILENCE, connection.simple_query(&query))
        .await
        .map_err(|_| format!("it was silent for {SILENCE:?}"))?
        .map_err(|error| error.to_string())?;
    let row = rows.first().ok_or_else(|| "it does not have the cluster".to_owned())?;
    LogStatusRow::from_row(|column| row.get(column)).map_err(|error| error.to_string())
}
