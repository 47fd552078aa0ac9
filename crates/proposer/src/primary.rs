//! The primary: attach, slot, stream, answers.
//!
//! One task per connection to a primary. It does what it is ordered, hands in what comes, and sends answers as soon as the
//! leader has them; a second task beside it asks over SQL (`checks`) and ends with it.

use crate::checks;
use crate::driver::Driver;
use leader::{Ancestor, PrimaryFacts, PrimaryFailure, Slot, StreamFailure};
use lsn::{Lsn, Tli};
use pg_source::{Assessment, Error, Event, Facts, Primary, WalStream};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use wal_format::history::{History, HistoryEntry};

/// How long leaving may take: a hand-over is done within a second.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_millis(500);
/// While WAL is held back the stream's own answers to the primary's questions are too: one is sent this often, well within the
/// 10 s after which the primary gives us up.
const HELD_BACK_ANSWER: Duration = Duration::from_secs(3);

/// What the leader wants of the primary.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    CreateSlot,
    StartStream { from: Lsn, tli: Tli },
    Close,
}

/// What the primary is to be told. Only the newest counts.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    positions: Cell<Option<(Lsn, Lsn, Lsn)>>,
    feedback: Cell<Option<(u64, u64)>>,
    changed: Notify,
}

impl Answers {
    pub(crate) fn set(&self, write: Lsn, flush: Lsn, apply: Lsn) {
        self.positions.set(Some((write, flush, apply)));
        self.changed.notify_one();
    }

    pub(crate) fn set_feedback(&self, xmin: u64, catalog_xmin: u64) {
        self.feedback.set(Some((xmin, catalog_xmin)));
        self.changed.notify_one();
    }

    /// Forgets everything: it was for another connection.
    pub(crate) fn clear(&self) {
        self.positions.set(None);
        self.feedback.set(None);
    }
}

/// How the leader is told of a failure.
pub(crate) fn failure(error: &Error) -> PrimaryFailure {
    if let Error::NotPrimary { host } = error {
        PrimaryFailure::Standby(format!("{host} is a standby: its promotion is waited for"))
    } else if error.needs_operator() {
        PrimaryFailure::Refused(error.to_string())
    } else {
        PrimaryFailure::Retry(error.to_string())
    }
}

/// What the leader has to know of a slot.
fn slot(slot: &pg_source::Slot) -> Slot {
    Slot { restart: slot.restart_lsn.filter(|_| slot.physical && !slot.is_lost()) }
}

/// What the leader has to know of a primary.
fn facts_for_leader(driver: &Driver, facts: &Facts) -> Result<PrimaryFacts, String> {
    let history = History::parse(facts.tli, facts.tli_history.as_bytes())
        .map_err(|error| format!("the primary's history file of TLI {} cannot be used: {error}", facts.tli))?;
    let ancestor = |entry: &HistoryEntry| Ancestor { tli: entry.tli, switch: entry.switch };
    Ok(PrimaryFacts {
        system_id: facts.system_id,
        tli: facts.tli,
        ancestors: history.entries().iter().map(ancestor).collect(),
        tli_history: facts.tli_history.clone(),
        oldest: facts.oldest_wal,
        flush: facts.flush_lsn,
        segment_size: facts.segment_size,
        version_num: facts.version_num,
        slot: facts.slot.as_ref().map(slot),
        fence_token: driver.fence_token(),
    })
}

/// Attaches and serves until the connection ends.
pub(crate) async fn run(
    driver: Rc<Driver>,
    id: u64,
    source: Rc<pg_source::Options>,
    orders: mpsc::UnboundedReceiver<Order>,
) {
    match pg_source::attach(&source).await {
        Ok(primary) => serve(&driver, id, &source, orders, primary).await,
        Err(error) => {
            // Its settings hold until they are read again; if they cannot be, nobody knows.
            driver.set_assessment(Assessment::unverified(&error.to_string()));
            driver.primary_event(id, |leader, now| leader.handle_primary_failed(now, failure(&error)));
        }
    }
}

async fn serve(
    driver: &Rc<Driver>,
    id: u64,
    source: &pg_source::Options,
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut primary: Primary,
) {
    let facts = &primary.facts;
    let found = match facts_for_leader(driver, facts) {
        Ok(found) => found,
        Err(reason) => {
            let failure = PrimaryFailure::Refused(reason);
            driver.primary_event(id, |leader, now| leader.handle_primary_failed(now, failure));
            return;
        }
    };
    tracing::debug!(
        cluster = driver.name(), host = facts.host, system_id = %facts.system_id, tli = %facts.tli, flush = %facts.flush_lsn,
        "the primary was found"
    );
    driver.set_facts(facts.clone());
    checks::assess(driver, source, &primary.settings, None);
    if !driver.primary_event(id, |leader, now| leader.handle_primary_checked(now, found)) {
        return;
    }
    let (from, tli) = loop {
        let order = tokio::select! {
            biased;
            order = orders.recv() => order,
            () = tokio::time::sleep(checks::INTERVAL) => {
                match primary.checks.read().await {
                    Ok(settings) => checks::assess(driver, source, &settings, None),
                    Err(error) => {
                        driver.set_assessment(Assessment::unverified(&error.to_string()));
                        driver.primary_event(id, |leader, now| leader.handle_primary_failed(now, failure(&error)));
                        return;
                    }
                }
                continue;
            }
        };
        match order {
            Some(Order::CreateSlot) => match primary.create_slot().await {
                Ok(made) => {
                    tracing::info!(cluster = driver.name(), restart = ?made.restart_lsn, "the slot was created");
                    let restart = slot(&made).restart.unwrap_or(Lsn::INVALID);
                    driver.primary_event(id, |leader, now| leader.handle_slot_created(now, restart));
                }
                Err(error) => {
                    driver.primary_event(id, |leader, now| leader.handle_primary_failed(now, failure(&error)));
                    return;
                }
            },
            Some(Order::StartStream { from, tli }) => break (from, tli),
            Some(Order::Close) | None => return,
        }
    };
    if let Err(error) = stream(driver, id, source, orders, primary, (from, tli)).await {
        // The leader makes the best of WAL that is gone; only before it leads can that be answered by another start.
        let gone = matches!(error, Error::WalRemoved(_)) && driver.leader().term().is_none();
        driver.primary_event(id, |leader, now| match gone {
            true => leader.handle_stream_refused(now, StreamFailure::SegmentRemoved),
            false => leader.handle_primary_failed(now, failure(&error)),
        });
    }
}

async fn stream(
    driver: &Rc<Driver>,
    id: u64,
    source: &pg_source::Options,
    mut orders: mpsc::UnboundedReceiver<Order>,
    primary: Primary,
    (from, tli): (Lsn, Tli),
) -> Result<(), Error> {
    let Primary { facts, walsender, mut checks, .. } = primary;
    let mut stream = walsender.start_stream(from, tli).await?;
    // Two connections lead to one server only if its slot is held by our stream.
    let settings = checks.prove(&facts).await?;
    let held = settings.slot.as_ref().map(slot).and_then(|slot| slot.restart);
    let restart = held.ok_or_else(|| Error::SlotLost("it holds no WAL".to_owned()))?;
    tracing::info!(cluster = driver.name(), %from, %tli, %restart, "streaming from the primary");
    checks::assess(driver, source, &settings, Some(&facts));
    if !driver.primary_event(id, |leader, now| leader.handle_stream_started(now, restart)) {
        return Ok(());
    }
    let mut watch = std::pin::pin!(checks::watch(driver, id, source, &facts, checks));
    let mut at = tli;
    loop {
        let next = tokio::select! {
            biased;
            result = relay(driver, id, &mut stream, at != facts.tli) => result?,
            () = closed(&mut orders) => {
                stream.close().await;
                return Ok(());
            }
            result = &mut watch => return result,
        };
        let Some((next, begin)) = next else { return Ok(()) };
        tracing::debug!(cluster = driver.name(), tli = %next, %begin, "the stream goes on with the next TLI");
        stream = stream.follow(next, begin).await?;
        at = next;
    }
}

async fn closed(orders: &mut mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Close) {
            return;
        }
    }
    // Without a sender the task is about to be ended.
    std::future::pending().await
}

/// WAL in, answers out, until the stream ends. At the end of a TLI that the primary left long ago: the next one, and where it
/// begins.
async fn relay(
    driver: &Rc<Driver>,
    id: u64,
    stream: &mut WalStream,
    is_historic: bool,
) -> Result<Option<(Tli, Lsn)>, Error> {
    let answers = &driver.answers;
    let mut told = (Lsn::INVALID, Lsn::INVALID, Lsn::INVALID);
    loop {
        if let Some((write, flush, apply)) = answers.positions.take() {
            told = (write, flush, apply);
            stream.answer(write, flush, apply).await?;
        }
        if let Some((xmin, catalog_xmin)) = answers.feedback.take() {
            stream.feedback(xmin, catalog_xmin).await?;
        }
        if !driver.leader().wants_wal() {
            tokio::select! {
                biased;
                () = answers.changed.notified() => {}
                () = driver.wal_room() => {}
                () = tokio::time::sleep(HELD_BACK_ANSWER) => stream.answer(told.0, told.1, told.2).await?,
            }
            continue;
        }
        let mut event = tokio::select! {
            biased;
            () = answers.changed.notified() => continue,
            event = stream.recv() => Some(event?),
        };
        // What one read brought is handed in before it is sent on, so that it leaves in few messages.
        while let Some(next) = event {
            match next {
                Event::EndOfTli { next, begin } if is_historic => return Ok(Some((next, begin))),
                next => {
                    if !hand_in(driver, id, next)? {
                        return Ok(None);
                    }
                }
            }
            event = if driver.leader().wants_wal() { stream.try_recv()? } else { None };
        }
    }
}

/// False if the connection is over.
fn hand_in(driver: &Rc<Driver>, id: u64, event: Event) -> Result<bool, Error> {
    let retry = |reason: &str| PrimaryFailure::Retry(reason.to_owned());
    Ok(match event {
        Event::Wal { begin, bytes, .. } => driver.primary_event(id, |leader, now| leader.handle_wal(now, begin, bytes)),
        Event::Keepalive { .. } => driver.is_primary(id),
        Event::Shutdown => driver
            .primary_event(id, |leader, now| leader.handle_primary_failed(now, retry("the primary has shut down"))),
        Event::EndOfTli { next, begin } => {
            let reason = format!("the primary's TLI ended at {begin}, it goes on with TLI {next}");
            driver.primary_event(id, |leader, now| leader.handle_primary_failed(now, PrimaryFailure::Retry(reason)))
        }
    })
}

/// Who judges the primary's settings.
pub(crate) fn observer<'a>(
    source: &'a pg_source::Options,
    streaming: Option<&Facts>,
    commit: Option<Lsn>,
) -> pg_source::Observer<'a> {
    pg_source::Observer {
        application_name: &source.application_name,
        slot: &source.slot,
        walsender_pid: streaming.map(|facts| facts.walsender_pid),
        commit,
        counts_standbys: false,
    }
}
