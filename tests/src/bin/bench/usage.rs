//! What processes have used, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::ByKind;
use crate::contender::Named;

/// The kernel tells times in hundredths of a second to programs, whatever it counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds used since their start, by process.
#[derive(Debug)]
pub(crate) struct Usage(BTreeMap<u32, (&'static str, f64)>);

impl Usage {
    /// User and system time of each process, with that of its children that have ended.
    pub(crate) fn of(processes: &[Named]) -> Result<Usage> {
        let mut usage = BTreeMap::new();
        for (kind, pid) in processes {
            usage.insert(*pid, (*kind, cpu_seconds(*pid)?));
        }
        Ok(Usage(usage))
    }

    /// What was used since `before`, summed by kind.
    pub(crate) fn since(&self, before: &Usage) -> ByKind<f64> {
        let mut used = ByKind::new();
        for (pid, (kind, now)) in &self.0 {
            let then = before.0.get(pid).map_or(0.0, |(_, seconds)| *seconds);
            *used.entry(kind).or_insert(0.0) += now - then;
        }
        used
    }
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}; has the process ended?"))?;
    // The name in parentheses may hold anything; utime, stime, cutime and cstime are the fields 14 to 17.
    let (_, fields) = stat.rsplit_once(')').context("no process name in stat")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Memory of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) kind: &'static str,
    /// Resident now, in bytes.
    pub(crate) resident: u64,
    /// The most that ever was, in bytes.
    pub(crate) peak: u64,
    /// Of the resident bytes those that are its own: not shared memory, not files.
    pub(crate) own: u64,
}

/// Memory of each process.
pub(crate) fn memory(processes: &[Named]) -> Result<Vec<Memory>> {
    let of = |(kind, pid): &Named| -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |key: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Memory { kind, resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")?, own: bytes("RssAnon:")? })
    };
    processes.iter().map(of).collect()
}
