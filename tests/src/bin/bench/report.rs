//! Samples, and what they say together.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::ByKind;
use crate::contender::{ALONE, ANY_2, SEAWALL};
use crate::usage::Memory;

/// What the primary is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Load {
    /// `pgbench -N`.
    Pgbench {
        /// Concurrent sessions.
        clients: u32,
    },
    /// One transaction that writes much.
    Bulk,
}

impl Load {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Load::Pgbench { .. } => "TPS",
            Load::Bulk => "MB/s",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Pgbench { clients: 1 } => f.write_str("1 client"),
            Load::Pgbench { clients } => write!(f, "{clients} clients"),
            Load::Bulk => f.write_str("bulk load"),
        }
    }
}

/// One slot.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) contender: &'static str,
    pub(crate) load: Load,
    /// Transactions per second, or MB of WAL per second of a bulk load.
    pub(crate) rate: f64,
    pub(crate) latencies_us: Vec<u64>,
    pub(crate) wal_bytes: u64,
    pub(crate) cpu_seconds: ByKind<f64>,
}

/// All slots of one contender under one load together.
#[derive(Debug)]
struct Cell {
    rates: Vec<f64>,
    rate: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    wal_bytes: u64,
    cpu_per_gb: ByKind<f64>,
}

/// Everything measured.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    pub(crate) memory: BTreeMap<&'static str, Vec<Memory>>,
    server: String,
    rounds: u32,
    seconds: u32,
    cpus: usize,
}

impl Report {
    pub(crate) fn new(server: String, rounds: u32, seconds: u32) -> Report {
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        Report { samples: Vec::new(), memory: BTreeMap::new(), server, rounds, seconds, cpus }
    }

    fn loads(&self) -> Vec<Load> {
        let mut loads: Vec<Load> = self.samples.iter().map(|sample| sample.load).collect();
        loads.sort_unstable();
        loads.dedup();
        loads
    }

    fn cell(&self, contender: &str, load: Load) -> Option<Cell> {
        let samples: Vec<&Sample> =
            self.samples.iter().filter(|sample| sample.contender == contender && sample.load == load).collect();
        let mut latencies: Vec<u64> = samples.iter().flat_map(|sample| sample.latencies_us.iter().copied()).collect();
        latencies.sort_unstable();
        let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
        let wal_bytes = samples.iter().map(|sample| sample.wal_bytes).sum::<u64>();
        let mut cpu_per_gb = ByKind::new();
        for (kind, seconds) in samples.iter().flat_map(|sample| &sample.cpu_seconds) {
            *cpu_per_gb.entry(*kind).or_insert(0.0) += seconds / (wal_bytes as f64 / 1e9);
        }
        let (p50_ms, p99_ms) = (percentile_ms(&latencies, 50), percentile_ms(&latencies, 99));
        Some(Cell { rate: median(&rates)?, rates, p50_ms, p99_ms, wal_bytes, cpu_per_gb })
    }

    /// The rate relative to that of another contender: the median over the rounds, because slots of one round are neighbours in
    /// time and met the same machine.
    fn ratio(&self, contender: &str, load: Load, to: &str) -> Option<f64> {
        let (ours, theirs) = (self.cell(contender, load)?.rates, self.cell(to, load)?.rates);
        median(&ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<f64>>())
    }

    /// The rows of the main table.
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for load in self.loads() {
            for contender in [ALONE, ANY_2, SEAWALL] {
                let Some(cell) = self.cell(contender, load) else { continue };
                let number = |value: Option<f64>, digits: usize| match value {
                    Some(value) => format!("{value:.digits$}"),
                    None => "-".to_owned(),
                };
                let total: f64 = cell.cpu_per_gb.values().sum();
                let kinds: Vec<String> =
                    cell.cpu_per_gb.iter().map(|(kind, seconds)| format!("{kind} {seconds:.1}")).collect();
                rows.push(vec![
                    load.to_string(),
                    contender.to_owned(),
                    format!("{:.0} {}", cell.rate, load.unit()),
                    number(self.ratio(contender, load, ANY_2), 2),
                    number(self.ratio(contender, load, ALONE), 2),
                    number(cell.p50_ms, 2),
                    number(cell.p99_ms, 2),
                    if kinds.is_empty() { "-".to_owned() } else { format!("{total:.1} ({})", kinds.join(", ")) },
                ]);
            }
        }
        rows
    }

    fn memory_rows(&self) -> Vec<Vec<String>> {
        let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        let mut rows = Vec::new();
        for (contender, parts) in &self.memory {
            for part in parts {
                let cells = [mb(part.resident), mb(part.peak), mb(part.own)];
                rows.push([(*contender).to_owned(), part.kind.to_owned()].into_iter().chain(cells).collect());
            }
        }
        rows
    }

    fn about(&self) -> String {
        format!(
            "PostgreSQL {}, {} CPUs, pgbench -N -M prepared at scale 10, {} rounds of {} s slots; rates are medians, ratios medians \
             of those within a round, latencies over all transactions, CPU is user and system time of the named processes per 10^9 bytes of WAL.",
            self.server, self.cpus, self.rounds, self.seconds
        )
    }

    /// For people at a terminal.
    pub(crate) fn table(&self) -> String {
        format!("{}\n\n{}\n{}", self.about(), aligned(&HEAD, self.rows()), aligned(&MEMORY_HEAD, self.memory_rows()))
    }

    /// For documents.
    pub(crate) fn markdown(&self) -> String {
        format!("{}\n\n{}\n{}", self.about(), marked(&HEAD, self.rows()), marked(&MEMORY_HEAD, self.memory_rows()))
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let mut results = Vec::new();
        for load in self.loads() {
            for contender in [ALONE, ANY_2, SEAWALL] {
                let Some(cell) = self.cell(contender, load) else { continue };
                results.push(json!({
                    "load": load.to_string(),
                    "contender": contender,
                    "unit": load.unit(),
                    "rate": cell.rate,
                    "rates": cell.rates,
                    "ratio_to_any_2": self.ratio(contender, load, ANY_2),
                    "ratio_to_alone": self.ratio(contender, load, ALONE),
                    "p50_ms": cell.p50_ms,
                    "p99_ms": cell.p99_ms,
                    "wal_bytes": cell.wal_bytes,
                    "cpu_seconds_per_gb": cell.cpu_per_gb,
                }));
            }
        }
        let part = |part: &Memory| json!({"kind": part.kind, "rss": part.resident, "peak": part.peak, "own": part.own});
        let memory: BTreeMap<&str, Vec<Value>> =
            self.memory.iter().map(|(name, parts)| (*name, parts.iter().map(part).collect())).collect();
        json!({
            "postgresql": self.server,
            "cpus": self.cpus,
            "rounds": self.rounds,
            "slot_seconds": self.seconds,
            "results": results,
            "memory_bytes": memory,
        })
    }
}

const HEAD: [&str; 8] =
    ["load", "primary with", "rate", "/ ANY 2", "/ alone", "p50 ms", "p99 ms", "CPU s per GB of WAL"];
const MEMORY_HEAD: [&str; 5] = ["primary with", "process", "RSS MB", "peak RSS MB", "own MB"];

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn percentile_ms(sorted_us: &[u64], percent: usize) -> Option<f64> {
    let index = (sorted_us.len() * percent / 100).min(sorted_us.len().saturating_sub(1));
    sorted_us.get(index).map(|us| *us as f64 / 1e3)
}

fn aligned(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut all: Vec<Vec<String>> = vec![head.iter().map(|name| (*name).to_owned()).collect()];
    all.extend(rows);
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &all {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn marked(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        let sorted: Vec<u64> = (1..=1000).map(|ms| ms * 1000).collect();
        assert_eq!((percentile_ms(&sorted, 50), percentile_ms(&sorted, 99)), (Some(501.0), Some(991.0)));
        assert_eq!(percentile_ms(&[], 50), None);
    }

    #[test]
    fn ratios_are_those_of_neighbours() {
        let mut report = Report::new("15".to_owned(), 3, 1);
        // The machine was ten times slower in the second round.
        for (seawall, alone) in [(90.0, 100.0), (8.0, 10.0), (80.0, 100.0)] {
            for (contender, rate) in [(SEAWALL, seawall), (ALONE, alone)] {
                let (latencies_us, cpu_seconds) = (Vec::new(), ByKind::new());
                report.samples.push(Sample {
                    contender,
                    load: Load::Bulk,
                    rate,
                    latencies_us,
                    wal_bytes: 1,
                    cpu_seconds,
                });
            }
        }
        assert_eq!(report.ratio(SEAWALL, Load::Bulk, ALONE), Some(0.8));
        assert_eq!(report.ratio(SEAWALL, Load::Bulk, ANY_2), None);
    }

    #[test]
    fn cpu_is_counted_per_byte_over_all_rounds() {
        let mut report = Report::new("15".to_owned(), 2, 1);
        for (rate, wal_bytes, seconds) in [(100.0, 1_000_000, 0.1), (300.0, 3_000_000, 0.1)] {
            let cpu_seconds = ByKind::from([("proposer", seconds)]);
            let load = Load::Bulk;
            let sample = Sample { contender: SEAWALL, load, rate, latencies_us: Vec::new(), wal_bytes, cpu_seconds };
            report.samples.push(sample);
        }
        let cell = report.cell(SEAWALL, Load::Bulk).unwrap();
        assert_eq!((cell.rate, cell.wal_bytes), (200.0, 4_000_000));
        assert!((cell.cpu_per_gb["proposer"] - 50.0).abs() < 1e-9);
        assert!(report.markdown().contains("| bulk load | Seawall | 200 MB/s | - | - |"), "{}", report.markdown());
    }
}
