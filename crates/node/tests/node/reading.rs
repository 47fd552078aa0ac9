//! START_REPLICATION: what a reader gets, and what it never gets.

use crate::client::{Client, Message, Refused};
use crate::process::{Node, Setup};
use crate::session::{Push, START, init, wal, with_cluster};
use lsn::Lsn;
use wal_format::build::WalBuilder;

/// A stream being read.
pub(crate) struct Stream {
    pub(crate) client: Client,
    /// The next byte.
    pub(crate) at: u64,
    wal: Vec<u8>,
}

impl Stream {
    pub(crate) fn start(node: &Node, from: u64, options: &str) -> Result<Stream, Refused> {
        let mut client = Client::connect(node.pg, "");
        client.send_query(&format!("START_REPLICATION PHYSICAL {}{options}", Lsn(from)));
        let message = client.recv();
        if let Some(refused) = message.refused() {
            assert_eq!(client.recv().tag, b'Z', "the connection stays usable");
            return Err(refused);
        }
        assert_eq!((message.tag, message.body.as_slice()), (b'W', &[0_u8; 3][..]));
        Ok(Stream { client, at: from, wal: Vec::new() })
    }

    /// What a start is refused with: at once, or, as PostgreSQL does it, behind the beginning of the stream.
    pub(crate) fn refused(node: &Node, from: u64, options: &str) -> Refused {
        match Stream::start(node, from, options) {
            Err(refused) => refused,
            Ok(mut stream) => {
                let refused = stream.client.recv().refused().unwrap();
                assert_eq!(stream.client.recv().tag, b'Z', "the connection stays usable");
                refused
            }
        }
    }

    /// Asks for a sign of life; an error instead is returned.
    pub(crate) fn try_ping(&mut self) -> Result<(), Refused> {
        self.client.send_copy_data(&status(1, true));
        loop {
            match self.take() {
                Some(message) if message.tag == b'd' => return Ok(()),
                Some(message) => return Err(message.refused().unwrap()),
                None => {}
            }
        }
    }

    /// Takes a message; WAL is kept, anything but WAL and keepalives is returned.
    pub(crate) fn take(&mut self) -> Option<Message> {
        let message = self.client.recv();
        if message.tag != b'd' {
            return Some(message);
        }
        if message.body[0] == b'w' {
            let begin = u64::from_be_bytes(message.body[1..9].try_into().unwrap());
            assert_eq!(begin, self.at, "no gap, no overlap");
            self.wal.extend_from_slice(&message.body[25..]);
            self.at += message.body.len() as u64 - 25;
            return None;
        }
        assert_eq!((message.body[0], message.body.len()), (b'k', 18));
        Some(message)
    }

    pub(crate) fn read_to(&mut self, end: u64) {
        while self.at < end {
            if let Some(other) = self.take() {
                assert_eq!(other.tag, b'd', "{:?}", other.refused());
            }
        }
        assert_eq!(self.at, end);
    }

    /// Asks for a sign of life. Whatever may be sent was sent before it.
    pub(crate) fn ping(&mut self) {
        self.try_ping().unwrap();
    }

    pub(crate) fn is_of(&self, wal: &WalBuilder) -> bool {
        let end = self.at;
        self.wal == wal.slice(Lsn(end - self.wal.len() as u64), Lsn(end))
    }
}

/// A standby status update: everything up to `flush` is there.
pub(crate) fn status(flush: u64, asks: bool) -> Vec<u8> {
    let position = flush.to_be_bytes();
    [&b"r"[..], &position, &position, &[0; 8], &[0; 8], &[u8::from(asks)]].concat()
}

/// A log of a few segments, committed up to its middle.
pub(crate) fn half_committed(node: &Node) -> (Push, WalBuilder, u64) {
    let mut wal = wal();
    let middle = wal.fill_to(Lsn(START + (1 << 20) + 70_000), 3000).0;
    let end = wal.fill_to(Lsn(START + (3 << 20)), 3000).0;
    let mut push = Push::leading(node);
    push.append_all(&wal, START, START);
    push.commit(end, middle);
    (push, wal, middle)
}

#[test]
fn without_a_term_only_committed_wal_is_sent() {
    let (node, _dir) = with_cluster();
    let (mut push, mut wal, middle) = half_committed(&node);
    let mut stream = Stream::start(&node, START, " TIMELINE 1").unwrap();
    stream.read_to(middle);
    stream.ping();
    assert_eq!(stream.at, middle, "nothing at or above the commit LSN");
    let end = wal.end().0;
    // Every step of the commit LSN is followed exactly, be it inside a record.
    for commit in [middle + 1, middle + 5000, middle + 5001, end - 1, end] {
        push.commit(end, commit);
        stream.read_to(commit);
        stream.ping();
        assert_eq!(stream.at, commit);
    }
    let more = wal.fill_to(Lsn(end + 100_000), 3000).0;
    push.append_all(&wal, end, end);
    stream.ping();
    assert_eq!(stream.at, end);
    push.commit(more, more);
    stream.read_to(more);
    assert!(stream.is_of(&wal));
}

#[test]
fn a_term_reads_to_the_end_until_it_changes() {
    let (node, _dir) = with_cluster();
    let (_push, wal, _) = half_committed(&node);
    let mut stream = Stream::start(&node, START, " TIMELINE 1 (term='1')").unwrap();
    stream.read_to(wal.end().0);
    assert!(stream.is_of(&wal));
    for term in ["0", "2", "18446744073709551615"] {
        let refused = Stream::start(&node, START, &format!(" (term='{term}')")).err().unwrap();
        assert_eq!(refused.text, format!("failed to acquire term {term}, current term 1"));
    }
    Push::voted(&node, 2);
    let refused = loop {
        if let Some(message) = stream.take() {
            break message.refused().unwrap();
        }
    };
    assert_eq!(refused.text, "term changed: requested 1, now 2");
    assert_eq!(stream.client.recv().tag, b'Z');
    stream.client.row("LOG_STATUS");
    Stream::start(&node, START, " (term='2')").unwrap().read_to(wal.end().0);
}

#[test]
fn a_start_inside_the_log_and_old_wal_from_files() {
    let (node, _dir) = with_cluster();
    let (mut push, wal, middle) = half_committed(&node);
    let end = wal.end().0;
    push.commit(end, end);
    // After a restart nothing is in memory.
    drop(push);
    let node = node.kill().start();
    for from in [START, START + 24, middle - 1, middle, (START + (2 << 20)) - 1, START + (2 << 20), end] {
        let mut stream = Stream::start(&node, from, " (term='1')").unwrap();
        stream.read_to(end);
        stream.ping();
        assert!(stream.is_of(&wal), "from {}", Lsn(from));
    }
}

#[test]
fn places_that_cannot_be_read_are_refused() {
    let (node, _dir) = Node::fresh();
    init(&node);
    let refused = Stream::start(&node, START, "").err().unwrap();
    assert!(refused.text.contains("no WAL of this cluster is here yet"), "{}", refused.text);
    let (_push, wal, middle) = half_committed(&node);
    let refused = Stream::refused(&node, wal.end().0, "");
    assert!(refused.text.contains("is ahead of the WAL flush position of this server"), "{}", refused.text);
    let refused = Stream::start(&node, START, " TIMELINE 2").err().unwrap();
    assert_eq!(refused.text, "requested timeline 2 is not in this server's history");
    let refused = Stream::refused(&node, START - 8, "");
    assert_eq!(refused.code, "58P01", "{}", refused.text);
    let refused = Stream::start(&node, START, " TIMELINE 0").err().unwrap();
    assert_eq!(refused.code, "42601", "{}", refused.text);
    Stream::start(&node, middle, "").unwrap().ping();
}

#[test]
fn removed_wal_is_told_as_postgresql_does() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { max_wal: 2 << 20, ..Setup::new(1, dir.path()) };
    let node = setup.start();
    init(&node);
    let mut push = Push::leading(&node);
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + (6 << 20)), 3000).0;
    push.append_all(&wal, START, START);
    push.commit(end, end);
    let refused = loop {
        if let Err(refused) = Stream::start(&node, START, "").unwrap().try_ping() {
            break refused;
        }
    };
    assert_eq!(refused.code, "58P01");
    assert_eq!(refused.text, "requested WAL segment 000000010000000000000010 has already been removed");
    let mut stream = Stream::start(&node, end - (1 << 20), "").unwrap();
    stream.read_to(end);
    assert!(stream.is_of(&wal));
}

#[test]
fn copy_done_from_both_sides_leaves_the_connection_usable() {
    let (node, _dir) = with_cluster();
    let (_push, wal, middle) = half_committed(&node);
    for term in ["", " (term='1')", ""] {
        let mut stream = Stream::start(&node, START, term).unwrap();
        stream.read_to(if term.is_empty() { middle } else { wal.end().0 });
        stream.client.send(b'c', &[]);
        let done = loop {
            match stream.take() {
                Some(message) if message.tag != b'd' => break message,
                _ => {}
            }
        };
        assert_eq!(done.tag, b'c');
        stream.client.answer().unwrap();
        stream.client.row("IDENTIFY_SYSTEM");
        stream.client.send_query(&format!("START_REPLICATION {}", Lsn(START)));
        assert_eq!(stream.client.recv().tag, b'W', "and for another stream");
    }
}

#[test]
fn readers_that_talk_nonsense_are_sent_away() {
    let (node, _dir) = with_cluster();
    let (_push, _wal, middle) = half_committed(&node);
    for (tag, body, code) in [
        (b'd', &b"z"[..], "08P01"),
        (b'd', b"", "08P01"),
        (b'd', b"r12", "08P01"),
        (b'Q', b"LOG_STATUS\0", "08P01"),
        (b'f', b"enough\0", "57014"),
    ] {
        let mut stream = Stream::start(&node, middle, "").unwrap();
        stream.client.send(tag, body);
        let refused = loop {
            if let Some(refused) = stream.take().and_then(|message| message.refused()) {
                break refused;
            }
        };
        assert_eq!(refused.code, code, "{}", refused.text);
    }
    Stream::start(&node, START, "").unwrap().read_to(middle);
}
