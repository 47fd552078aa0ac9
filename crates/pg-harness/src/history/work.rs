//! What one client of a history does: transaction after transaction, connection after connection.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::record::{Op, Record};

const RECONNECT_AFTER: Duration = Duration::from_millis(50);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Lists that transactions meet on at one time. Few, so that they do meet.
const KEYS: u64 = 4;
/// Transactions of one client after which the lists are left behind for the next ones, so that no list grows without end.
const TRANSACTIONS_PER_KEY: u64 = 24;

/// A little chance, the same for the same client: which one does not matter, only that clients differ.
struct Dice(u64);

impl Dice {
    /// Below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        // Knuth's multiplier for 64 bits; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Plans the `number`th transaction of a client.
fn plan(client: u64, number: u64, dice: &mut Dice) -> Vec<Op> {
    let first = number / TRANSACTIONS_PER_KEY;
    let key = |dice: &mut Dice| (first + dice.roll(KEYS)) as i64;
    let mut ops: Vec<Op> = Vec::new();
    for op in 0..=dice.roll(4) {
        let key = key(dice);
        // Every transaction writes, so that its COMMIT waits.
        if op == 0 || dice.roll(2) == 0 {
            let value = (client << 40 | number << 4 | op) as i64;
            ops.push(Op::Append { key, value });
        } else {
            ops.push(Op::Read { key, seen: None });
        }
    }
    // The append stands anywhere in it.
    let turn = dice.roll(ops.len() as u64) as usize;
    ops.rotate_left(turn);
    ops
}

/// Connects, works until something fails, connects again; ends with `None` for a conninfo.
pub(crate) async fn transactions(client: u64, mut conninfo: watch::Receiver<Option<String>>, record: Arc<Record>) {
    let (mut number, mut dice) = (0, Dice(client + 1));
    loop {
        let Some(target) = conninfo.borrow_and_update().clone() else { return };
        tokio::select! {
            // Its error says only that the rest of this connection's fate is open.
            _ = on_one_connection(client, &mut number, &mut dice, &target, &record) => {
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
            changed = conninfo.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn on_one_connection(
    client: u64,
    number: &mut u64,
    dice: &mut Dice,
    conninfo: &str,
    record: &Record,
) -> Result<()> {
    let connecting = tokio_postgres::connect(conninfo, NoTls);
    let (session, mut connection) = tokio::time::timeout(CONNECT_WITHIN, connecting).await??;
    let warned = AtomicBool::new(false);
    // The server sends a warning before the command's completion, so it is seen before the command returns.
    let messages = async {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message?
                && notice.severity() == "WARNING"
            {
                warned.store(true, Ordering::Relaxed);
            }
        }
        anyhow::Ok(())
    };
    let work = async {
        loop {
            *number += 1;
            one(&session, client, plan(client, *number, dice), &warned, record).await?;
        }
    };
    let (messages, work) = (pin!(messages), pin!(work));
    tokio::select! {
        biased;
        ended = messages => ended,
        ended = work => ended,
    }
}

/// One transaction. An error ends the connection.
async fn one(session: &Client, client: u64, ops: Vec<Op>, warned: &AtomicBool, record: &Record) -> Result<()> {
    let transaction = record.begin(client, ops.clone());
    if let Err(error) = operate(session, transaction, &ops, record).await {
        // COMMIT was not sent.
        record.failed(transaction);
        if error.code().is_none() {
            return Err(error.into());
        }
        return Ok(session.batch_execute("ROLLBACK").await?);
    }
    warned.store(false, Ordering::Relaxed);
    match session.batch_execute("COMMIT").await {
        Ok(()) if !warned.load(Ordering::Relaxed) => record.acknowledge(transaction),
        Ok(()) => {}
        Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => record.failed(transaction),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn operate(
    session: &Client,
    transaction: usize,
    ops: &[Op],
    record: &Record,
) -> Result<(), tokio_postgres::Error> {
    session.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await?;
    for (place, op) in ops.iter().enumerate() {
        match op {
            Op::Append { key, value } => {
                let append = format!(
                    "INSERT INTO history VALUES ({key}, ARRAY[{value}::bigint])
                     ON CONFLICT (key) DO UPDATE SET items = history.items || excluded.items"
                );
                session.batch_execute(&append).await?;
            }
            Op::Read { key, .. } => {
                let row = session.query_opt("SELECT items FROM history WHERE key = $1", &[key]).await?;
                record.saw(transaction, place, row.map(|row| row.get(0)).unwrap_or_default());
            }
        }
    }
    Ok(())
}
