//! Whether one order of all transactions explains a history.
//!
//! A list keeps the order in which numbers were appended, and numbers are unique, so what a transaction saw tells exactly after whom and before
//! whom it ran. Those relations, and real time (who was acknowledged before another one began comes first), must have no circle: the history is
//! strictly serializable then. Besides, nothing acknowledged may be missing, nothing that failed may be there, a transaction is there as a whole,
//! and nobody saw a part of one.
//!
//! Numbers found in a list and noted nowhere are wrong, too. A transaction whose fate is open counts as committed if its numbers are there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::Checked;
use super::graph::Graph;
use super::record::{Op, Outcome, Transaction};

/// What is wrong with a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Anomaly {
    /// An acknowledged transaction's number is not where it was appended.
    Lost(String),
    /// A number is there that a failed transaction appended, or nobody.
    FromNowhere(String),
    /// A number is there twice, or in another list.
    Misplaced(String),
    /// Some numbers of a transaction are there and others are not, or somebody saw only some.
    Torn(String),
    /// Somebody saw a list that never was.
    NeverWas(String),
    /// No order explains it.
    Circle(String),
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Anomaly::Lost(text) => write!(f, "an acknowledged append is lost: {text}"),
            Anomaly::FromNowhere(text) => write!(f, "an append from nowhere: {text}"),
            Anomaly::Misplaced(text) => write!(f, "an append is misplaced: {text}"),
            Anomaly::Torn(text) => write!(f, "a transaction is there in part: {text}"),
            Anomaly::NeverWas(text) => write!(f, "a list was seen that never was: {text}"),
            Anomaly::Circle(text) => write!(f, "no order of the transactions explains what they saw:\n{text}"),
        }
    }
}

impl std::error::Error for Anomaly {}

/// Where a number was appended, and by whom.
#[derive(Clone, Copy)]
struct Append {
    transaction: usize,
    key: i64,
}

/// Checks all transactions against the lists as they were read after the moment `read_after`.
pub(crate) fn check(
    transactions: &[Transaction],
    lists: &BTreeMap<i64, Vec<i64>>,
    read_after: u64,
) -> Result<Checked, Anomaly> {
    let appended = appends(transactions);
    let committed = committed(transactions, lists, &appended, read_after)?;
    whole(transactions, lists, &committed)?;
    let mut graph = Graph::new(transactions.len());
    let mut checked = Checked { acknowledged: 0, silent: 0, appends: 0, reads: 0 };
    for (key, list) in lists {
        checked.appends += list.len();
        for pair in list.windows(2) {
            graph.edge(appended[&pair[0]].transaction, appended[&pair[1]].transaction, || {
                format!("appended to {key} before")
            });
        }
    }
    for &index in &committed {
        let transaction = &transactions[index];
        match transaction.outcome {
            Outcome::Acknowledged(at) if at < read_after => checked.acknowledged += 1,
            _ => checked.silent += 1,
        }
        for (key, seen) in seen_of_others(index, transaction, &appended)? {
            checked.reads += 1;
            let list = lists.get(&key).map(Vec::as_slice).unwrap_or_default();
            if !list.starts_with(&seen) {
                let text = format!("{} saw {seen:?} in {key}, which has {list:?}", name(index, transaction));
                return Err(Anomaly::NeverWas(text));
            }
            if let Some(last) = seen.last() {
                let writer = appended[last].transaction;
                let more = list.get(seen.len()).is_some_and(|next| appended[next].transaction == writer);
                if more && writer != index {
                    let text = format!("{} saw {key} up to {last}", name(index, transaction));
                    return Err(Anomaly::Torn(text));
                }
                graph.edge(writer, index, || format!("appended to {key} what was seen by"));
            }
            if let Some(next) = list.get(seen.len()) {
                graph.edge(index, appended[next].transaction, || format!("did not see in {key} what was appended by"));
            }
        }
    }
    graph.real_time(committed.iter().map(|&index| {
        let transaction = &transactions[index];
        let ended = match transaction.outcome {
            Outcome::Acknowledged(at) => Some(at),
            Outcome::Open | Outcome::Failed => None,
        };
        (index, transaction.began, ended)
    }));
    match graph.circle() {
        None => Ok(checked),
        Some(circle) => {
            let lines: Vec<String> =
                circle.iter().map(|(index, why)| format!("  {} {why}", name(*index, &transactions[*index]))).collect();
            Err(Anomaly::Circle(lines.join("\n")))
        }
    }
}

fn name(index: usize, transaction: &Transaction) -> String {
    format!("transaction {index} of client {} ({:?})", transaction.client, transaction.outcome)
}

fn appends(transactions: &[Transaction]) -> HashMap<i64, Append> {
    let mut appended = HashMap::new();
    for (index, transaction) in transactions.iter().enumerate() {
        for op in &transaction.ops {
            if let Op::Append { key, value } = op {
                appended.insert(*value, Append { transaction: index, key: *key });
            }
        }
    }
    appended
}

/// Who committed: whoever's numbers are there, and whoever was acknowledged before the lists were read.
fn committed(
    transactions: &[Transaction],
    lists: &BTreeMap<i64, Vec<i64>>,
    appended: &HashMap<i64, Append>,
    read_after: u64,
) -> Result<BTreeSet<usize>, Anomaly> {
    let mut committed = BTreeSet::new();
    let mut found = BTreeSet::new();
    for (key, list) in lists {
        for value in list {
            let Some(append) = appended.get(value) else {
                return Err(Anomaly::FromNowhere(format!("{value} in {key} was appended by nobody")));
            };
            let transaction = &transactions[append.transaction];
            if transaction.outcome == Outcome::Failed {
                let text = format!("{value} in {key} is of {}", name(append.transaction, transaction));
                return Err(Anomaly::FromNowhere(text));
            }
            if append.key != *key || !found.insert(*value) {
                return Err(Anomaly::Misplaced(format!("{value} in {key} was appended once, to {}", append.key)));
            }
            committed.insert(append.transaction);
        }
    }
    for (index, transaction) in transactions.iter().enumerate() {
        if matches!(transaction.outcome, Outcome::Acknowledged(at) if at < read_after) {
            committed.insert(index);
        }
    }
    Ok(committed)
}

/// Every number of everybody who committed is there.
fn whole(
    transactions: &[Transaction],
    lists: &BTreeMap<i64, Vec<i64>>,
    committed: &BTreeSet<usize>,
) -> Result<(), Anomaly> {
    let present: BTreeSet<i64> = lists.values().flatten().copied().collect();
    for &index in committed {
        let transaction = &transactions[index];
        for op in &transaction.ops {
            if let Op::Append { key, value } = op
                && !present.contains(value)
            {
                let text = format!("{value} in {key}, of {}", name(index, transaction));
                return Err(match transaction.outcome {
                    Outcome::Acknowledged(_) => Anomaly::Lost(text),
                    Outcome::Open | Outcome::Failed => Anomaly::Torn(text),
                });
            }
        }
    }
    Ok(())
}

/// What a transaction saw of others: its reads without what it had appended itself, which must stand at their ends.
fn seen_of_others(
    index: usize,
    transaction: &Transaction,
    appended: &HashMap<i64, Append>,
) -> Result<Vec<(i64, Vec<i64>)>, Anomaly> {
    let mut own: HashMap<i64, Vec<i64>> = HashMap::new();
    let mut reads = Vec::new();
    for op in &transaction.ops {
        match op {
            Op::Append { key, value } => own.entry(*key).or_default().push(*value),
            Op::Read { seen: None, .. } => {}
            Op::Read { key, seen: Some(seen) } => {
                let own = own.get(key).map(Vec::as_slice).unwrap_or_default();
                let others = seen.strip_suffix(own);
                let Some(others) = others.filter(|others| {
                    others.iter().all(|value| appended.get(value).is_some_and(|append| append.transaction != index))
                }) else {
                    let text = format!("{} saw {seen:?} in {key}, having appended {own:?}", name(index, transaction));
                    return Err(Anomaly::NeverWas(text));
                };
                reads.push((*key, others.to_vec()));
            }
        }
    }
    Ok(reads)
}
