//! [`Driver`]: the leader, what it wants done, and its clock.
//!
//! Everything that happens comes through [`Driver::event`] or one of its guarded forms and is followed at once by whatever the
//! leader wants done because of it. Tasks carry the number they were started with: an event of a task that has been replaced
//! or closed meanwhile is dropped, which is what the leader's commands promise it.

use crate::compare::{self, Range};
use crate::files::{self, WalFiles};
use crate::primary::{self, Answers, Order};
use crate::push;
use crate::quorum;
use crate::report::Reporter;
use crate::safekeeper::Safekeeper;
use consensus::FenceToken;
use leader::{Command, Leader, LookAnswer, Peer, Transmit};
use lsn::ClusterId;
use pg_source::{Assessment, Facts};
use std::cell::{Cell, Ref, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// A task that can be replaced.
#[derive(Debug, Default)]
struct Slot {
    id: Cell<u64>,
    task: RefCell<Option<JoinHandle<()>>>,
}

impl Slot {
    fn is_current(&self, id: u64) -> bool {
        self.id.get() == id && id != 0
    }

    /// Ends the task that runs, if any; what it still says is dropped. A task that ends itself runs on to its next await.
    fn end(&self) {
        self.id.set(0);
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }

    fn start(&self, id: u64, work: impl Future<Output = ()> + 'static) {
        self.end();
        self.id.set(id);
        *self.task.borrow_mut() = Some(tokio::task::spawn_local(work));
    }
}

#[derive(Debug)]
struct PeerSlot {
    safekeeper: Rc<Safekeeper>,
    session: Slot,
    transmit: Notify,
}

impl PeerSlot {
    fn new(safekeeper: Rc<Safekeeper>) -> Rc<PeerSlot> {
        Rc::new(PeerSlot { safekeeper, session: Slot::default(), transmit: Notify::new() })
    }
}

/// Where the WAL comes from that is to be led.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A running primary.
    Primary(Rc<pg_source::Options>),
    /// The safekeepers themselves: what one of them has is completed on a majority.
    Quorum,
    /// The files of a server that is down.
    Files(Rc<WalFiles>),
}

/// One leader and its surroundings, on one thread.
pub(crate) struct Driver {
    cluster: ClusterId,
    name: String,
    leader: RefCell<Leader>,
    origin: Origin,
    token_file: Option<PathBuf>,
    /// By place; records that name other safekeepers add to them.
    peers: RefCell<Vec<Rc<PeerSlot>>>,
    primary: Slot,
    orders: RefCell<Option<mpsc::UnboundedSender<Order>>>,
    /// What the primary is to be told; taken by the task that streams.
    pub(crate) answers: Answers,
    donor: Slot,
    donor_room: Notify,
    wal_room: Notify,
    last_id: Cell<u64>,
    timer: Notify,
    armed: Cell<Option<Instant>>,
    facts: RefCell<Option<Facts>>,
    assessment: RefCell<Assessment>,
    reporter: RefCell<Reporter>,
}

impl Driver {
    pub(crate) fn new(
        cluster: ClusterId,
        name: String,
        leader: Leader,
        origin: Origin,
        token_file: Option<PathBuf>,
        safekeepers: Vec<Rc<Safekeeper>>,
    ) -> Rc<Driver> {
        let reporter = Reporter::new(safekeepers.len());
        Rc::new(Driver {
            cluster,
            name,
            leader: RefCell::new(leader),
            origin,
            token_file,
            peers: RefCell::new(safekeepers.into_iter().map(PeerSlot::new).collect()),
            primary: Slot::default(),
            orders: RefCell::new(None),
            answers: Answers::default(),
            donor: Slot::default(),
            donor_room: Notify::new(),
            wal_room: Notify::new(),
            last_id: Cell::new(0),
            timer: Notify::new(),
            armed: Cell::new(None),
            facts: RefCell::new(None),
            assessment: RefCell::new(Assessment::unverified("the primary has not been reached yet")),
            reporter: RefCell::new(reporter),
        })
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What lets us pass a fence: whatever stands in its file now.
    pub(crate) fn fence_token(&self) -> Option<FenceToken> {
        let path = self.token_file.as_ref()?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            // Whoever fences leaves it when it does.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), "the fence token cannot be read: {error}");
                return None;
            }
        };
        text.trim().parse().inspect_err(|error| tracing::warn!(path = %path.display(), "{error}")).ok()
    }

    pub(crate) fn safekeeper(&self, peer: Peer) -> Rc<Safekeeper> {
        Rc::clone(&self.peer(peer).safekeeper)
    }

    fn peer(&self, peer: Peer) -> Rc<PeerSlot> {
        Rc::clone(&self.peers.borrow()[peer.0])
    }

    /// Safekeepers that only a membership record names get their places.
    fn meet(&self) {
        let leader = self.leader.borrow();
        let mut peers = self.peers.borrow_mut();
        let Some(first) = peers.first().map(|peer| Rc::clone(&peer.safekeeper)) else { return };
        for address in leader.safekeepers().get(peers.len()..).unwrap_or_default() {
            tracing::info!(cluster = self.name, %address, "a membership record names this safekeeper");
            peers.push(PeerSlot::new(Rc::new(first.beside(address))));
        }
        self.reporter.borrow_mut().meet(peers.len());
    }

    pub(crate) fn leader(&self) -> Ref<'_, Leader> {
        self.leader.borrow()
    }

    pub(crate) fn facts(&self) -> Option<Facts> {
        self.facts.borrow().clone()
    }

    pub(crate) fn set_facts(&self, facts: Facts) {
        *self.facts.borrow_mut() = Some(facts);
    }

    pub(crate) fn assessment(&self) -> Ref<'_, Assessment> {
        self.assessment.borrow()
    }

    pub(crate) fn set_assessment(&self, assessment: Assessment) {
        self.reporter.borrow_mut().assessment(&self.assessment.borrow(), &assessment);
        *self.assessment.borrow_mut() = assessment;
    }

    /// Something happened.
    pub(crate) fn event(self: &Rc<Self>, event: impl FnOnce(&mut Leader, Instant)) {
        event(&mut self.leader.borrow_mut(), Instant::now());
        self.follow_up();
    }

    /// Something happened in a push session. False if the session is over, perhaps because of it.
    pub(crate) fn push_event(self: &Rc<Self>, peer: Peer, id: u64, event: impl FnOnce(&mut Leader, Instant)) -> bool {
        self.guarded(&self.peer(peer).session, id, event)
    }

    /// Something happened to the primary. False if this connection to it is over, perhaps because of it.
    pub(crate) fn primary_event(self: &Rc<Self>, id: u64, event: impl FnOnce(&mut Leader, Instant)) -> bool {
        self.guarded(&self.primary, id, event)
    }

    /// Whether this connection to the primary is the one in use.
    pub(crate) fn is_primary(&self, id: u64) -> bool {
        self.primary.is_current(id)
    }

    /// Something happened while a donor's log was read. False if it need not be read any further.
    pub(crate) fn donor_event(self: &Rc<Self>, id: u64, event: impl FnOnce(&mut Leader, Instant)) -> bool {
        self.guarded(&self.donor, id, event)
    }

    fn guarded(self: &Rc<Self>, slot: &Slot, id: u64, event: impl FnOnce(&mut Leader, Instant)) -> bool {
        if slot.is_current(id) {
            self.event(event);
        }
        slot.is_current(id)
    }

    /// The next message of a session, if there is one.
    pub(crate) fn poll_transmit(&self, peer: Peer, id: u64) -> Option<Transmit> {
        if !self.peer(peer).session.is_current(id) {
            return None;
        }
        let transmit = self.leader.borrow_mut().poll_transmit(Instant::now(), peer);
        if transmit.is_none() {
            // Taking a message sets the time of the next heartbeat, and may be what the primary's stream waits for.
            let leader = self.leader.borrow();
            self.set_clock(&leader);
            if leader.wants_wal() {
                self.wal_room.notify_one();
            }
        }
        transmit
    }

    /// Waits until there may be one.
    pub(crate) async fn wait_for_transmit(&self, peer: Peer) {
        let peer = self.peer(peer);
        peer.transmit.notified().await;
    }

    /// Waits until more of a donor's log may be handed in, or none is wanted any more.
    pub(crate) async fn donor_room(&self, id: u64) {
        while self.donor.is_current(id) && !self.leader.borrow().wants_donor_bytes() {
            self.donor_room.notified().await;
        }
    }

    /// Waits until more WAL of the primary may be handed in.
    pub(crate) async fn wal_room(&self) {
        while !self.leader.borrow().wants_wal() {
            self.wal_room.notified().await;
        }
    }

    /// Carries out what the leader wants, wakes those who can go on, sets the clock, and reports.
    fn follow_up(self: &Rc<Self>) {
        loop {
            let command = self.leader.borrow_mut().poll_command();
            let Some(command) = command else { break };
            if self.leader.borrow().safekeepers().len() > self.peers.borrow().len() {
                self.meet();
            }
            self.carry_out(command);
        }
        let leader = self.leader.borrow();
        for (index, peer) in self.peers.borrow().iter().enumerate() {
            if leader.has_transmit(Peer(index)) {
                peer.transmit.notify_one();
            }
        }
        if leader.wants_wal() {
            self.wal_room.notify_one();
        }
        if leader.wants_donor_bytes() {
            self.donor_room.notify_one();
        }
        self.set_clock(&leader);
        self.reporter.borrow_mut().leader(&leader);
    }

    /// Wakes the clock if something is due earlier than it knows.
    fn set_clock(&self, leader: &Leader) {
        let next = leader.poll_timeout();
        if next.is_some_and(|next| self.armed.get().is_none_or(|armed| next < armed)) {
            self.timer.notify_one();
        }
    }

    fn carry_out(self: &Rc<Self>, command: Command) {
        match command {
            Command::CheckPrimary => {
                let (orders, received) = mpsc::unbounded_channel();
                *self.orders.borrow_mut() = Some(orders);
                self.answers.clear();
                let id = self.next_id();
                let driver = Rc::clone(self);
                match &self.origin {
                    Origin::Primary(source) => {
                        self.primary.start(id, primary::run(driver, id, Rc::clone(source), received));
                    }
                    Origin::Quorum => self.primary.start(id, quorum::run(driver, id, received)),
                    Origin::Files(wal) => self.primary.start(id, files::run(driver, id, Rc::clone(wal), received)),
                }
            }
            Command::CreateSlot => self.order(Order::CreateSlot),
            Command::StartStream { from, tli } => self.order(Order::StartStream { from, tli }),
            Command::ClosePrimary { reason } => {
                tracing::debug!(cluster = self.name, "leaving the primary: {reason}");
                self.primary.end();
                *self.orders.borrow_mut() = None;
                *self.facts.borrow_mut() = None;
                self.answers.clear();
            }
            Command::AnswerPrimary { write, flush, apply } => self.answers.set(write, flush, apply),
            Command::Feedback { xmin, catalog_xmin } => self.answers.set_feedback(xmin, catalog_xmin),
            Command::Look { peer, round } => {
                let driver = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    let answer = driver.look(peer).await;
                    driver.event(|leader, now| leader.handle_look(now, round, peer, answer));
                });
            }
            Command::Compare { peer, term, to, .. } => {
                let id = self.next_id();
                let range = Range { peer, term, to };
                self.donor.start(id, compare::run(Rc::clone(self), id, range));
            }
            Command::StopCompare => self.donor.end(),
            Command::OpenPush { peer, introduction } => {
                let id = self.next_id();
                self.peer(peer).session.start(id, push::run(Rc::clone(self), peer, id, introduction));
            }
            Command::TakeRecord { peer, record } => {
                let driver = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    tracing::info!(cluster = driver.name, safekeeper = %driver.safekeeper(peer), %record, "bringing a membership record");
                    let answer = driver.safekeeper(peer).take_record(driver.cluster, record).await;
                    driver.event(|leader, now| leader.handle_record_taken(now, peer, answer));
                });
            }
            Command::ClosePush { peer } => self.peer(peer).session.end(),
        }
    }

    /// LOG_STATUS of all safekeepers that answer, for this cluster.
    pub(crate) async fn rows(&self) -> Vec<(Peer, Box<quorum_proto::LogStatusRow>)> {
        let mut rows = Vec::new();
        let peers = self.peers.borrow().len();
        for peer in (0..peers).map(Peer) {
            if let LookAnswer::Row(row) = self.look(peer).await {
                rows.push((peer, row));
            }
        }
        rows
    }

    async fn look(&self, peer: Peer) -> LookAnswer {
        match self.safekeeper(peer).log_status().await {
            Err(reason) => LookAnswer::Failed(reason),
            Ok(status) => match status.rows.into_iter().find(|row| row.cluster == self.cluster) {
                Some(row) => LookAnswer::Row(Box::new(row)),
                None => LookAnswer::Absent(status.node),
            },
        }
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &*self.orders.borrow() {
            // A task that has ended says so by another way.
            let _ = orders.send(order);
        }
    }

    fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    /// Runs the leader's clock for ever; begins with what the leader wants from the start.
    pub(crate) async fn keep_time(self: Rc<Self>) {
        self.follow_up();
        loop {
            let next = self.leader.borrow().poll_timeout();
            self.armed.set(next);
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = due => self.event(|leader, now| leader.handle_timeout(now)),
                () = self.timer.notified() => {}
            }
        }
    }

    /// Lets go of everything, the slot first: the next proposer waits for it.
    pub(crate) async fn leave(&self) {
        self.order(Order::Close);
        let task = self.primary.task.borrow_mut().take();
        if let Some(task) = task {
            let abort = task.abort_handle();
            if tokio::time::timeout(primary::CLOSE_DEADLINE, task).await.is_err() {
                abort.abort();
            }
        }
        self.primary.end();
        self.donor.end();
        for peer in self.peers.borrow().iter() {
            peer.session.end();
        }
    }
}
