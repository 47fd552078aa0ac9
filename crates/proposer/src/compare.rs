//! Reading a donor's log, guarded by its term, as fast as the leader compares it.

use crate::driver::Driver;
use leader::Peer;
use lsn::{Lsn, Term, Tli};
use pq_proto::command::StartReplication;
use pq_proto::frontend;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use walreceiver::{End, Event, Receiver, Timeouts};

/// A donor that says nothing for so long is given up; the leader gives up too.
const SILENCE: Duration = Duration::from_secs(10);

/// What is to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) peer: Peer,
    pub(crate) term: Term,
    pub(crate) to: Lsn,
}

/// Reads the range and hands it in; a failure too.
pub(crate) async fn run(driver: Rc<Driver>, id: u64, range: Range) {
    if let Err(reason) = read(&driver, id, range).await {
        driver.donor_event(id, |leader, now| leader.handle_donor_failed(now, reason));
    }
}

async fn read(driver: &Rc<Driver>, id: u64, range: Range) -> Result<(), String> {
    let mut connection = driver.safekeeper(range.peer).connect(Some(driver.cluster())).await?;
    let rows = connection.simple_query("SHOW seawall_oldest_lsn").await.map_err(|error| error.to_string())?;
    let oldest = rows.first().and_then(|row| row.text(0)?.parse::<Lsn>().ok()).unwrap_or(Lsn::INVALID);
    let mut from = None;
    driver.donor_event(id, |leader, now| from = leader.handle_donor_oldest(now, oldest));
    let Some(from) = from else { return Ok(()) };
    // Without a TLI the log is read from one to the next.
    let command = StartReplication { tli: None, term: Some(range.term), ..StartReplication::new(from, Tli(1)) };
    let timeouts = Timeouts { status_interval: SILENCE / 4, silence: SILENCE };
    let mut receiver = Receiver::new(command, timeouts, Instant::now());
    frontend::encode_query(&receiver.command(), connection.writer().buffer()).map_err(|error| error.to_string())?;
    while receiver.position() < range.to {
        while let Some(transmit) = receiver.poll_transmit(Instant::now(), SystemTime::now().into()) {
            transmit.encode(connection.writer().buffer());
        }
        connection.writer().flush().await.map_err(|error| error.to_string())?;
        let due = receiver.poll_timeout().unwrap_or_else(|| Instant::now() + SILENCE);
        let message = tokio::select! {
            message = connection.recv() => message.map_err(|error| error.to_string())?,
            () = tokio::time::sleep_until(due.into()) => {
                receiver.handle_timeout(Instant::now()).map_err(|error| error.to_string())?;
                continue;
            }
        };
        match receiver.handle_message(Instant::now(), message).map_err(|error| error.to_string())? {
            Some(Event::Wal { begin, bytes, .. }) => {
                if !driver.donor_event(id, |leader, now| leader.handle_donor_bytes(now, begin, bytes)) {
                    break;
                }
                driver.donor_room(id).await;
            }
            Some(Event::EndOfTli(_)) => return Err("it ended the stream with a TLI".to_owned()),
            Some(Event::Ended(End::Error(report))) => return Err(report.message),
            Some(Event::Ended(_)) => return Err("it ended the stream".to_owned()),
            Some(Event::Started | Event::Keepalive { .. }) | None => {}
        }
    }
    connection.close().await;
    Ok(())
}
