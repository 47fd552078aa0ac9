//! [`Record`]: what transactions did, saw and were told, in the order in which they began and ended.
//!
//! A beginning is noted before anything is sent and an end after the answer came, under one counter: if one transaction's end has a lower
//! number than another one's beginning, it really was over before.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One thing a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Appends this number, which nobody else appends anywhere.
    Append {
        /// To this list.
        key: i64,
        /// The number.
        value: i64,
    },
    /// Reads a list.
    Read {
        /// This one.
        key: i64,
        /// What stood there; nothing as long as it was not read.
        seen: Option<Vec<i64>>,
    },
}

/// What became of a transaction as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Still running, or COMMIT was sent and nothing certain came back.
    Open,
    /// COMMIT returned without a warning; when.
    Acknowledged(u64),
    /// It cannot have committed.
    Failed,
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) client: u64,
    pub(crate) began: u64,
    pub(crate) ops: Vec<Op>,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Default)]
struct Inner {
    clock: u64,
    acknowledged: usize,
    transactions: Vec<Transaction>,
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

/// All transactions of all clients.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Inner>);

impl Record {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction that is about to begin; its number.
    pub(crate) fn begin(&self, client: u64, ops: Vec<Op>) -> usize {
        let mut inner = self.lock();
        let began = inner.tick();
        inner.transactions.push(Transaction { client, began, ops, outcome: Outcome::Open });
        inner.transactions.len() - 1
    }

    /// What the transaction read as its operation of this number.
    pub(crate) fn saw(&self, transaction: usize, op: usize, items: Vec<i64>) {
        if let Op::Read { seen, .. } = &mut self.lock().transactions[transaction].ops[op] {
            *seen = Some(items);
        }
    }

    pub(crate) fn failed(&self, transaction: usize) {
        self.lock().transactions[transaction].outcome = Outcome::Failed;
    }

    pub(crate) fn acknowledge(&self, transaction: usize) {
        let mut inner = self.lock();
        let now = inner.tick();
        inner.acknowledged += 1;
        inner.transactions[transaction].outcome = Outcome::Acknowledged(now);
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.lock().acknowledged
    }

    /// A moment after everything noted so far.
    pub(crate) fn now(&self) -> u64 {
        self.lock().tick()
    }

    pub(crate) fn all(&self) -> Vec<Transaction> {
        self.lock().transactions.clone()
    }
}
