//! The safekeepers as their own source: what the best of them has is read, so that a term can be won in which a majority gets
//! it. No primary is needed, and none is told anything.

use crate::driver::Driver;
use crate::primary::Order;
use leader::{Ancestor, Peer, PrimaryFacts, PrimaryFailure, Slot, StreamFailure};
use lsn::{Lsn, SegmentSize, Term, Tli};
use pq_proto::command::StartReplication;
use pq_proto::frontend;
use quorum_proto::LogStatusRow;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use wal_format::history::{History, HistoryEntry};
use walreceiver::{End, Event, Receiver, Timeouts};

/// A safekeeper that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// Finds the best log and serves it until the connection ends.
pub(crate) async fn run(driver: Rc<Driver>, id: u64, mut orders: mpsc::UnboundedReceiver<Order>) {
    let reason = match serve(&driver, id, &mut orders).await {
        Ok(()) => return,
        Err(reason) => reason,
    };
    let failure = PrimaryFailure::Retry(reason);
    if driver.leader().has_stream() {
        driver.primary_event(id, |leader, now| leader.handle_primary_failed(now, failure));
    } else {
        let failure = StreamFailure::Primary(failure);
        driver.primary_event(id, |leader, now| match leader.is_checking() {
            true => leader.handle_primary_failed(now, PrimaryFailure::Retry("no log can be read".to_owned())),
            false => leader.handle_stream_refused(now, failure),
        });
    }
}

async fn serve(driver: &Rc<Driver>, id: u64, orders: &mut mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    let (peer, row) = best(driver).await.ok_or("no safekeeper has any WAL of this cluster")?;
    let facts = facts(&row)?;
    if !driver.primary_event(id, |leader, now| leader.handle_primary_checked(now, facts)) {
        return Ok(());
    }
    match orders.recv().await {
        Some(Order::StartStream { from, .. }) => stream(driver, id, peer, &row, from).await,
        Some(Order::CreateSlot) => Err("a quorum has no slots".to_owned()),
        Some(Order::Close) | None => Ok(()),
    }
}

/// The log that comes first in the order of votes.
async fn best(driver: &Rc<Driver>) -> Option<(Peer, LogStatusRow)> {
    let rows = driver.rows().await.into_iter().map(|(peer, row)| (peer, *row)).filter(|(_, row)| row.flush.is_valid());
    rows.max_by_key(|(_, row)| (row.last_log_term, row.flush))
}

/// The log as if it were a primary that has exactly this, and told us so up to its commit LSN.
fn facts(row: &LogStatusRow) -> Result<PrimaryFacts, String> {
    let path = row.path.as_ref().ok_or("the log has no path")?;
    let entries = path.entries();
    let ancestors: Vec<Ancestor> =
        entries.windows(2).map(|pair| Ancestor { tli: pair[0].tli, switch: pair[1].begin }).collect();
    let segment_size = SegmentSize::new(row.segment_size.into()).map_err(|error| error.to_string())?;
    let lines = ancestors.iter().map(|a| HistoryEntry { tli: a.tli, switch: a.switch, reason: String::new() });
    let history = History::new(path.last().tli, lines.collect()).map_err(|error| error.to_string())?;
    let first = row.history.entries().first().map_or(Lsn::INVALID, |entry| entry.begin);
    Ok(PrimaryFacts {
        system_id: row.system_id,
        tli: path.last().tli,
        ancestors,
        tli_history: history.to_string(),
        oldest: Some(segment_size.start_of_segment_at(row.commit.max(first))),
        flush: row.flush,
        segment_size,
        version_num: row.pg_version,
        slot: Some(Slot { restart: Some(row.commit.max(first)) }),
        fence_token: None,
    })
}

/// Reads the log of one safekeeper, whatever terms come and go: what it has is read to its end and beyond.
async fn stream(driver: &Rc<Driver>, id: u64, peer: Peer, row: &LogStatusRow, from: Lsn) -> Result<(), String> {
    let (mut at, mut term) = (from, row.term);
    loop {
        let started = at == from;
        let ended = read(driver, id, peer, term, &mut at, started && term == row.term, row.commit).await?;
        if !driver.is_primary(id) {
            return Ok(());
        }
        // A term of our own ends the read, and nothing of the log has changed by it.
        let rows = driver.rows().await;
        let now = rows.into_iter().find(|(other, _)| *other == peer).map(|(_, row)| row).ok_or("it does not answer")?;
        if now.term == term {
            return Err(ended);
        }
        term = now.term;
    }
}

/// Reads under one term, and says how that ended.
async fn read(
    driver: &Rc<Driver>,
    id: u64,
    peer: Peer,
    term: Term,
    at: &mut Lsn,
    announces: bool,
    commit: Lsn,
) -> Result<String, String> {
    let mut connection = driver.safekeeper(peer).connect(Some(driver.cluster())).await?;
    let command = StartReplication { tli: None, term: Some(term), ..StartReplication::new(*at, Tli(1)) };
    let timeouts = Timeouts { status_interval: SILENCE / 4, silence: SILENCE };
    let mut receiver = Receiver::new(command, timeouts, Instant::now());
    frontend::encode_query(&receiver.command(), connection.writer().buffer()).map_err(|error| error.to_string())?;
    loop {
        while let Some(transmit) = receiver.poll_transmit(Instant::now(), SystemTime::now().into()) {
            transmit.encode(connection.writer().buffer());
        }
        connection.writer().flush().await.map_err(|error| error.to_string())?;
        let due = receiver.poll_timeout().unwrap_or_else(|| Instant::now() + SILENCE);
        let message = tokio::select! {
            message = connection.recv() => match message {
                Ok(message) => message,
                Err(error) => return Ok(error.to_string()),
            },
            () = tokio::time::sleep_until(due.into()) => {
                receiver.handle_timeout(Instant::now()).map_err(|error| error.to_string())?;
                continue;
            }
        };
        match receiver.handle_message(Instant::now(), message).map_err(|error| error.to_string())? {
            Some(Event::Started) if announces => {
                if !driver.primary_event(id, |leader, now| leader.handle_stream_started(now, commit)) {
                    return Ok("it is not needed any more".to_owned());
                }
            }
            Some(Event::Wal { begin, bytes, .. }) => {
                *at = begin.saturating_add(bytes.len() as u64);
                if !driver.primary_event(id, |leader, now| leader.handle_wal(now, begin, bytes)) {
                    return Ok("it is not needed any more".to_owned());
                }
                driver.wal_room().await;
            }
            Some(Event::EndOfTli(_)) => return Ok("it ended the stream with a TLI".to_owned()),
            Some(Event::Ended(End::Error(report))) => return Ok(report.message),
            Some(Event::Ended(_)) => return Ok("it ended the stream".to_owned()),
            Some(Event::Started | Event::Keepalive { .. }) | None => {}
        }
    }
}
