//! Processes and threads as the kernel counts them, the ones that have left their parents included.
//!
//! `pgbackrest` and `wal-fetch --ahead` detach themselves. This process takes such orphans in ([`take_orphans_in`]), and leaves them as
//! they ended until it has read what they used.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

/// The kernel tells times in hundredths of a second to programs, whatever it counts in.
const TICKS_PER_SECOND: f64 = 100.0;
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// One process.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    parent: u32,
    name: String,
    ended: bool,
    /// Own and of children that have ended and were waited for, in seconds.
    cpu: f64,
}

/// What `stat` of a process or a thread says.
fn seen(pid: u32, stat: &str) -> Option<Seen> {
    let (head, fields) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // utime, stime, cutime and cstime are the fields 14 to 17 of proc(5); here the state is the first.
    let ticks: u64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Seen {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        name: name.to_owned(),
        ended: fields.first() == Some(&"Z"),
        cpu: ticks as f64 / TICKS_PER_SECOND,
    })
}

fn all() -> Vec<Seen> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| seen(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// From now on processes below us whose parents end become our children.
pub(crate) fn take_orphans_in() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("become the parent of what detaches itself")
}

/// CPU seconds of a process that lives and of its children that have ended.
pub(crate) fn cpu_of(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("has the process ended?")?;
    Ok(seen(pid, &stat).context("no process")?.cpu)
}

/// Our children of this name, whoever started them.
fn ours(name: &str) -> Vec<Seen> {
    let us = getpid().as_raw_nonzero().get().unsigned_abs();
    all().into_iter().filter(|process| process.parent == us && process.name == name).collect()
}

/// The orphans of one name: those of it that were our children before are not among them.
#[derive(Debug)]
pub(crate) struct Orphans {
    name: &'static str,
    before: Vec<u32>,
}

impl Orphans {
    pub(crate) fn watch(name: &'static str) -> Orphans {
        Orphans { name, before: ours(name).into_iter().map(|process| process.pid).collect() }
    }

    /// CPU seconds of all that came. Those that have ended are let go.
    pub(crate) fn take(self) -> f64 {
        let mut cpu = 0.0;
        for process in ours(self.name).into_iter().filter(|process| !self.before.contains(&process.pid)) {
            cpu += process.cpu;
            let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
            if process.ended && pid.is_some() {
                // It is there until it is waited for, and nobody else does.
                let _ = waitpid(pid, WaitOptions::NOHANG);
            }
        }
        cpu
    }
}

/// What is looked at again and again, because it may be gone at the end.
#[derive(Debug, Clone)]
pub(crate) enum Watched {
    /// Threads of these processes whose names begin like this.
    Threads(Vec<u32>, &'static str),
    /// Processes whose command lines hold both.
    Commands(String, &'static str),
}

/// What was seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sampled {
    /// CPU seconds by thread: first and last seen.
    cpu: BTreeMap<u32, (f64, f64)>,
    /// The most memory of one process that was ever resident, in bytes.
    pub(crate) peak: u64,
}

impl Sampled {
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu.values().map(|(first, last)| last - first).sum()
    }
}

/// A thread that looks.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Sampled>,
}

impl Sampler {
    pub(crate) fn start(watched: Watched) -> Result<Sampler> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("sampler".to_owned()).spawn(move || {
            let mut sampled = Sampled::default();
            let mut first = true;
            while !told.load(Ordering::Relaxed) {
                sampled.look(&watched, first);
                first = false;
                std::thread::sleep(SAMPLE_EVERY);
            }
            sampled.look(&watched, false);
            sampled
        })?;
        Ok(Sampler { stop, thread })
    }

    pub(crate) fn stop(self) -> Result<Sampled> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the sampler panicked")
    }
}

impl Sampled {
    fn look(&mut self, watched: &Watched, first: bool) {
        match watched {
            Watched::Threads(pids, prefix) => {
                for pid in pids {
                    self.memory(*pid);
                    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                        let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                        let Some(thread) = seen(tid, &stat).filter(|thread| thread.name.starts_with(prefix)) else {
                            continue;
                        };
                        // A thread that came later did all its work meanwhile.
                        let begun = if first { thread.cpu } else { 0.0 };
                        self.cpu.entry(tid).or_insert((begun, begun)).1 = thread.cpu;
                    }
                }
            }
            Watched::Commands(one, other) => {
                for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                        continue;
                    };
                    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    let line = String::from_utf8_lossy(&line);
                    if line.contains(one.as_str()) && line.contains(other) && !line.starts_with("sh\0") {
                        self.memory(pid);
                    }
                }
            }
        }
    }

    fn memory(&mut self, pid: u32) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        self.peak = self.peak.max(kib.unwrap_or(0) * 1024);
    }
}
