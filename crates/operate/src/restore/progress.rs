//! How far something long has come: a bar on a terminal, a line a second elsewhere, nothing where the output is for programs.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
const TICK: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(1);

/// A display on standard error that follows a counter of bytes until dropped.
#[derive(Debug)]
pub struct Display {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    /// Shows `what` on its way to `total` bytes, as `counted` tells.
    pub fn start(what: &'static str, total: u64, counted: impl Fn() -> u64 + Send + 'static) -> Display {
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let terminal = io::stderr().is_terminal();
        let work =
            move || if terminal { bar(what, total, &counted, &stop) } else { lines(what, total, &counted, &stop) };
        // Without a thread there is no display, and nothing else changes.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(work).ok();
        Display { done, thread }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only draws.
            let _ = thread.join();
        }
    }
}

/// Bytes that several parts count together.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts more.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The sum.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn bar(what: &'static str, total: u64, counted: &dyn Fn() -> u64, stop: &AtomicBool) {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    // The template is fixed; were it wrong, the plain bar would do.
    bar.set_style(ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    while !stop.load(Ordering::Relaxed) {
        bar.set_position(counted());
        std::thread::park_timeout(TICK);
    }
    bar.finish_and_clear();
}

fn lines(what: &'static str, total: u64, counted: &dyn Fn() -> u64, stop: &AtomicBool) {
    let started = Instant::now();
    loop {
        std::thread::park_timeout(LINE);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        // If nobody reads standard error there is nobody to tell.
        let _ = writeln!(io::stderr(), "{}", line(what, counted(), total, started.elapsed()));
    }
}

/// Bytes, rate, time left.
fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left = if rate >= 1.0 {
        format!("{:.0} s left", total.saturating_sub(done) as f64 / rate)
    } else {
        "waiting".to_owned()
    };
    format!("{what}: {} of {} ({}/s), {left}", size(done), size(total), size(rate as u64))
}

/// A number of bytes for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_bytes_rate_and_time_left() {
        let said = line("restored", 512 << 20, 1 << 30, Duration::from_secs(2));
        assert_eq!(said, "restored: 512.0 MiB of 1.0 GiB (256.0 MiB/s), 2 s left");
        assert_eq!(line("restored", 0, 5, Duration::ZERO), "restored: 0 B of 5 B (0 B/s), waiting");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
