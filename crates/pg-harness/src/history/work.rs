//! What one client of a history does: transaction after transaction, connection after connection.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::record::{Op, Record};
use crate::session::{Warned, on_one_connection, pause};
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
        let work = async |session: Client, warned: Warned| -> Result<()> {
            loop {
                number += 1;
                one(&session, client, plan(client, number, &mut dice), &warned, &record).await?;
            }
        };
        tokio::select! {
            _ = on_one_connection(&target, work) => {}
            changed = conninfo.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
        }
        if !pause(&mut conninfo).await {
            return;
        }
    }
}

/// One transaction. An error ends the connection.
async fn one(session: &Client, client: u64, ops: Vec<Op>, warned: &Warned, record: &Record) -> Result<()> {
    let transaction = record.begin(client, ops.clone());
    if let Err(error) = operate(session, transaction, &ops, record).await {
        // COMMIT was not sent.
        record.failed(transaction);
        if error.code().is_none() {
            return Err(error.into());
        }
        return Ok(session.batch_execute("ROLLBACK").await?);
    }
    warned.take();
    match session.batch_execute("COMMIT").await {
        Ok(()) if !warned.take() => record.acknowledge(transaction),
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
