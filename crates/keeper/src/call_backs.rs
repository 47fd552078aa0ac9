//! [`CallBacks`]: consumers that sleep and want to be called while WAL waits for them.
//!
//! A consumer leaves an address with the safekeeper it reads from; that one calls it, so nobody is called twice. A call is due
//! while the consumer is not connected and something it has not is committed, first after a second, then ever more rarely.
//! Being connected pauses it, however the connection ends it goes on. All of this is forgotten at a restart: then the consumer
//! was cut off and will come by itself. What an address means and who may be called is not known here.

use crate::command::ReaderId;
use lsn::Lsn;
use pq_proto::SqlState;
use pq_proto::backend::Report;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most consumers of one cluster that may leave an address.
pub const CALL_BACKS_MAX: usize = 64;
const FIRST_AFTER: Duration = Duration::from_secs(1);
const RARELY: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct CallBack {
    address: String,
    connected: Option<ReaderId>,
    /// What it has, as far as it told, or at least was sent.
    has: Lsn,
    calls: u32,
    due: Option<Instant>,
}

/// Those of one cluster, by the names the consumers give themselves.
#[derive(Debug, Default)]
pub(crate) struct CallBacks(BTreeMap<String, CallBack>);

impl CallBacks {
    /// A reader begins. `address` is what it leaves; an empty one takes an earlier one back.
    pub(crate) fn arrive(
        &mut self,
        name: &str,
        address: Option<String>,
        reader: ReaderId,
        start: Lsn,
    ) -> Result<(), Report> {
        let refused = |text: &str| Err(Report::error(SqlState::INVALID_PARAMETER_VALUE, text));
        match address {
            Some(address) if address.is_empty() => {
                self.0.remove(name);
            }
            Some(_) if name.is_empty() => return refused("who leaves an address needs an application_name"),
            Some(_) if self.0.len() >= CALL_BACKS_MAX && !self.0.contains_key(name) => {
                return refused("as many consumers as there may be have left addresses here");
            }
            Some(address) => {
                let call_back = CallBack { address, connected: None, has: start, calls: 0, due: None };
                self.0.insert(name.to_owned(), call_back);
            }
            None => {}
        }
        if let Some(call_back) = self.0.get_mut(name) {
            (call_back.connected, call_back.calls, call_back.due) = (Some(reader), 0, None);
        }
        Ok(())
    }

    /// A reader has this much.
    pub(crate) fn has(&mut self, reader: ReaderId, position: Lsn) {
        for call_back in self.0.values_mut().filter(|call_back| call_back.connected == Some(reader)) {
            call_back.has = call_back.has.max(position);
        }
    }

    /// A reader ended.
    pub(crate) fn leave(&mut self, reader: ReaderId) {
        for call_back in self.0.values_mut().filter(|call_back| call_back.connected == Some(reader)) {
            call_back.connected = None;
        }
    }

    /// Whom to call now: names and addresses.
    pub(crate) fn poll(&mut self, now: Instant, commit: Lsn) -> Vec<(String, String)> {
        let mut calls = Vec::new();
        for (name, call_back) in &mut self.0 {
            if call_back.connected.is_some() || call_back.has >= commit {
                call_back.due = None;
            } else if now >= *call_back.due.get_or_insert(now + FIRST_AFTER) {
                let pause = FIRST_AFTER * 2_u32.saturating_pow(call_back.calls.saturating_add(1).min(16));
                call_back.calls = call_back.calls.saturating_add(1);
                call_back.due = Some(now + pause.min(RARELY));
                calls.push((name.clone(), call_back.address.clone()));
            }
        }
        calls
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(|call_back| call_back.due).min()
    }

    /// Names of consumers that are waited for, and how often each was called.
    pub(crate) fn views(&self) -> Vec<(String, u32)> {
        let absent = self.0.iter().filter(|(_, call_back)| call_back.connected.is_none());
        absent.map(|(name, call_back)| (name.clone(), call_back.calls)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(call_backs: &mut CallBacks, reader: u64, address: Option<&str>) {
        call_backs.arrive("r", address.map(str::to_owned), ReaderId(reader), Lsn(10)).unwrap();
    }

    #[test]
    fn a_sleeper_is_called_while_something_waits_and_never_while_it_is_connected() {
        let (mut call_backs, began) = (CallBacks::default(), Instant::now());
        let after = |seconds: u64| began + Duration::from_secs(seconds);
        arrive(&mut call_backs, 1, Some("a"));
        call_backs.has(ReaderId(1), Lsn(50));
        assert!(call_backs.poll(after(0), Lsn(100)).is_empty() && call_backs.next_timeout().is_none(), "connected");
        call_backs.leave(ReaderId(2));
        assert!(call_backs.poll(after(0), Lsn(100)).is_empty() && call_backs.next_timeout().is_none(), "another left");
        call_backs.leave(ReaderId(1));
        assert!(call_backs.poll(after(0), Lsn(50)).is_empty() && call_backs.next_timeout().is_none(), "it has all");
        assert!(call_backs.poll(after(0), Lsn(51)).is_empty());
        assert_eq!(call_backs.next_timeout(), Some(after(1)));
        let mut called = Vec::new();
        for second in 0..2000 {
            if !call_backs.poll(after(second), Lsn(51)).is_empty() {
                called.push(second);
            }
        }
        assert_eq!(called[..9], [1, 3, 7, 15, 31, 63, 127, 255, 511]);
        assert_eq!(called[9..12], [811, 1111, 1411], "ever more rarely, but always again");
        // It comes, without an address this time, and leaves without a word.
        arrive(&mut call_backs, 3, None);
        assert!(call_backs.poll(after(5000), Lsn(99)).is_empty());
        call_backs.leave(ReaderId(3));
        assert!(call_backs.poll(after(5000), Lsn(99)).is_empty());
        assert_eq!(call_backs.poll(after(5001), Lsn(99)), [("r".to_owned(), "a".to_owned())]);
        arrive(&mut call_backs, 4, Some(""));
        call_backs.leave(ReaderId(4));
        assert!(call_backs.poll(after(9000), Lsn(99)).is_empty(), "taken back");
    }

    #[test]
    fn addresses_are_bounded_and_have_names() {
        let mut call_backs = CallBacks::default();
        assert!(call_backs.arrive("", Some("a".to_owned()), ReaderId(1), Lsn(1)).is_err());
        call_backs.arrive("", None, ReaderId(1), Lsn(1)).unwrap();
        for number in 0..CALL_BACKS_MAX {
            call_backs.arrive(&number.to_string(), Some("a".to_owned()), ReaderId(1), Lsn(1)).unwrap();
        }
        assert!(call_backs.arrive("more", Some("a".to_owned()), ReaderId(1), Lsn(1)).is_err());
        call_backs.arrive("5", Some("b".to_owned()), ReaderId(1), Lsn(1)).unwrap();
    }
}
