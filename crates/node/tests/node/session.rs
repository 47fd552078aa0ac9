//! What many tests do: make a cluster, lead it, append to it.

use crate::client::{Client, Refused};
use crate::messages::{Acknowledged, PG_VERSION, SEGMENT, SYSTEM, TENANT, TIMELINE, acknowledged, hex, v3};
use crate::process::Node;
use lsn::{Lsn, SegmentSize, SystemId};
use wal_format::build::WalBuilder;

/// Where logs begin.
pub(crate) const START: u64 = 16 << 20;

/// WAL of the cluster's primary, from [`START`] on.
pub(crate) fn wal() -> WalBuilder {
    WalBuilder::new(SegmentSize::new(SEGMENT.into()).unwrap(), Lsn(START)).with_system_id(SystemId(SYSTEM))
}

/// The start-up options that choose the cluster by its ids.
pub(crate) fn by_ids() -> String {
    format!("-c tenant_id={} -c timeline_id={}", hex(TENANT), hex(TIMELINE))
}

/// An INIT_CLUSTER command.
pub(crate) fn init_command(name: &str, tenant: [u8; 16], membership: &str) -> String {
    let (tenant, timeline) = (hex(tenant), hex(TIMELINE));
    format!("INIT_CLUSTER (name '{name}', tenant_id '{tenant}', timeline_id '{timeline}', membership '{membership}')")
}

/// The record with only this node.
pub(crate) fn only(node: &Node) -> String {
    format!("1/0/1:{}@127.0.0.1:{}", node.disk(), node.pg.port())
}

/// Makes the cluster `orders` on a node.
pub(crate) fn init(node: &Node) {
    node.client().rows(&init_command("orders", TENANT, &only(node))).unwrap();
}

/// A node with the cluster `orders`.
pub(crate) fn with_cluster() -> (Node, tempfile::TempDir) {
    let (node, dir) = Node::fresh();
    init(&node);
    (node, dir)
}

/// A proposer's session of protocol 3.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) client: Client,
    pub(crate) term: u64,
}

impl Push {
    /// A session in which nothing was said.
    pub(crate) fn open(node: &Node) -> Push {
        let mut client = Client::connect(node.pg, &by_ids());
        client.send_query("START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false')");
        let message = client.recv();
        assert_eq!((message.tag, message.body.as_slice()), (b'W', &[0_u8; 3][..]), "{:?}", message.refused());
        Push { client, term: 0 }
    }

    /// A session that was greeted.
    pub(crate) fn greeted(node: &Node) -> Push {
        let mut push = Push::open(node);
        push.tell(&v3::greeting());
        assert_eq!(push.client.recv_copy_data()[0], b'g');
        push
    }

    /// A session with the vote for this term.
    pub(crate) fn voted(node: &Node, term: u64) -> Push {
        let mut push = Push::greeted(node);
        push.term = term;
        push.tell(&v3::vote(1, term));
        let vote = push.client.recv_copy_data();
        assert_eq!((vote[0], vote[13]), (b'v', 1), "the vote is granted");
        push
    }

    /// Leads from an empty log on.
    pub(crate) fn leading(node: &Node) -> Push {
        let mut push = Push::voted(node, 1);
        push.tell(&v3::elected(1, 1, START, &[(1, START)]));
        push
    }

    /// Leads in a later term, going on at `end` of a log of term 1.
    pub(crate) fn leading_on(node: &Node, term: u64, end: u64) -> Push {
        Push::leading_with(node, &[(1, START), (term, end)])
    }

    /// Leads with this term history.
    pub(crate) fn leading_with(node: &Node, history: &[(u64, u64)]) -> Push {
        let (term, start) = *history.last().unwrap();
        let mut push = Push::voted(node, term);
        push.tell(&v3::elected(1, term, start, history));
        push
    }

    pub(crate) fn tell(&mut self, payload: &[u8]) {
        self.client.send_copy_data(payload);
    }

    pub(crate) fn append(&mut self, begin: u64, commit: u64, wal: &[u8]) {
        let message = v3::append(1, self.term, begin, commit, wal);
        self.tell(&message);
    }

    /// Appends everything in pieces and waits until all of it is acknowledged.
    pub(crate) fn append_all(&mut self, wal: &WalBuilder, from: u64, commit: u64) {
        let end = wal.end().0;
        let mut at = from;
        while at < end {
            let to = end.min(at + (100 << 10));
            self.append(at, commit, wal.slice(Lsn(at), Lsn(to)));
            at = to;
        }
        self.wait_for_flush(end);
    }

    pub(crate) fn acknowledged(&mut self) -> Acknowledged {
        acknowledged(&self.client.recv_copy_data())
    }

    pub(crate) fn wait_for_flush(&mut self, flush: u64) {
        while self.acknowledged().flush < flush {}
    }

    /// Tells the commit LSN, and waits until it has arrived.
    pub(crate) fn commit(&mut self, end: u64, commit: u64) {
        self.append(end, commit, &[]);
        // The first may pass without an answer, if it moved the commit LSN; the second is answered.
        self.append(end, commit, &[]);
        self.acknowledged();
    }

    /// Reads to the end of the session; what it was refused with.
    pub(crate) fn refused(&mut self) -> Refused {
        self.client.last_words().unwrap()
    }
}

/// Proves that the node serves: a new cluster of its own is made, led, written and read back.
pub(crate) fn serves(node: &Node, number: u8) {
    let tenant = [number; 16];
    let name = format!("proof-{number}");
    node.client().rows(&init_command(&name, tenant, &only(node))).unwrap();
    let options = format!("-c cluster={name}");
    let mut client = Client::connect(node.pg, &options);
    client.send_query("START_WAL_PUSH (proto_version '3')");
    assert_eq!(client.recv().tag, b'W');
    let mut push = Push { client, term: 1 };
    push.tell(&v3::greeting_of(tenant, SYSTEM, SEGMENT, PG_VERSION));
    push.tell(&v3::vote(1, 1));
    push.tell(&v3::elected(1, 1, START, &[(1, START)]));
    assert_eq!(push.client.recv_copy_data()[0], b'g');
    assert_eq!(push.client.recv_copy_data()[0], b'v');
    let mut wal = wal();
    let end = wal.fill_to(Lsn(START + 300_000), 3000).0;
    push.append_all(&wal, START, START);
    push.commit(end, end);
    let status = Client::connect(node.pg, &options).row("TIMELINE_STATUS");
    assert_eq!((&status["flush_lsn"], &status["commit_lsn"]), (&Lsn(end).to_string(), &Lsn(end).to_string()));
}
