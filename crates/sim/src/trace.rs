//! [`Trace`]: what happened, line by line: hashed, so that two runs can be compared; the last lines kept for a failure; all of it
//! printed where somebody asked.

use std::collections::VecDeque;
use std::fmt::Write as _;

/// Lines kept for a failure.
const KEPT: usize = 400;

/// The story of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    keeps_all: bool,
    line: String,
}

impl Trace {
    pub(crate) fn new(keeps_all: bool) -> Trace {
        Trace { hash: 0xCBF2_9CE4_8422_2325, lines: VecDeque::new(), keeps_all, line: String::new() }
    }

    /// Notes a line at a moment, in microseconds.
    pub(crate) fn note(&mut self, now: u64, what: std::fmt::Arguments<'_>) {
        self.line.clear();
        // Writing to a String does not fail.
        let _ = write!(self.line, "{:>5}.{:06} {what}", now / 1_000_000, now % 1_000_000);
        for byte in self.line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if !self.keeps_all && self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(self.line.clone());
    }

    /// FNV-1a over every line.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |all, line| all + line + "\n")
    }
}
