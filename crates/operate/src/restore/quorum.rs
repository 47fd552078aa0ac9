//! What a quorum's log holds above the archive: where it ends for certain, and its bytes.
//!
//! **The end.** Nothing is written and no term is raised. While a leader is at work, everything that any member of a majority has
//! flushed is waited for until it counts as committed. Without a leader the answers alone must say: `certain` is what a majority has in
//! the newest term, `possible` is what a majority could have if the members that did not answer have all they can. An acknowledged commit
//! lies at or below `possible`; if that is above `certain`, only an election can tell, and this restore does not hold one.

use config::Address;
use lsn::{Lsn, Term, Tli};
use pg_conn::{ConnInfo, Connection, StartupExtra};
use pq_proto::command::{Command, StartReplication};
use pq_proto::replication::PgTime;
use quorum_proto::{LogState, LogStatusRow};
use restore::postgres::plan::QuorumEnd;
use source::Chunk;
use std::time::{Duration, Instant, SystemTime};
use walreceiver::{End, Event, NextTli, Receiver, Timeouts};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// A leader that was heard within this time is at work (its heartbeats come every 5 s).
const LEADER_ALIVE_MS: u64 = 10_000;
/// How long a leader may take to commit what its followers have flushed.
const COMMIT_WITHIN: Duration = Duration::from_secs(30);

/// Why the quorum's end is not known, or its bytes cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum QuorumError {
    /// Too few answers.
    #[error("only {answered} of {members} safekeepers answer ({}); the end of the log is not known without a majority", failures.join("; "))]
    NoMajority {
        /// How many did.
        answered: usize,
        /// How many there are.
        members: usize,
        /// What the others said.
        failures: Vec<String>,
    },
    /// No such cluster, or several.
    #[error("{0}")]
    Cluster(String),
    /// Nobody leads, and the answers do not decide.
    #[error(
        "nobody leads the quorum, and {possible} may have been acknowledged though only {certain} is known to be on a majority: bring up another safekeeper, or a proposer that completes the log"
    )]
    Undecided {
        /// Known to be on a majority.
        certain: Lsn,
        /// May be.
        possible: Lsn,
    },
    /// It took too long.
    #[error("the quorum has flushed {wanted} and committed {committed}, and goes no further")]
    Stuck {
        /// Waited for.
        wanted: Lsn,
        /// Reached.
        committed: Lsn,
    },
    /// A log without WAL.
    #[error("the quorum's log is empty")]
    Empty,
    /// Nobody has the bytes.
    #[error("no safekeeper gives the WAL from {from} to {to} ({})", failures.join("; "))]
    Bytes {
        /// First byte wanted.
        from: Lsn,
        /// The byte after the last.
        to: Lsn,
        /// What they said.
        failures: Vec<String>,
    },
    /// The stream broke.
    #[error("the WAL from {source_name} broke off at {at}: {problem}")]
    Broken {
        /// Who sent it.
        source_name: String,
        /// Where.
        at: Lsn,
        /// Why.
        problem: String,
    },
}

/// A quorum, asked from outside.
#[derive(Clone, Debug)]
pub(crate) struct Quorum {
    safekeepers: Vec<Address>,
    cluster: Option<String>,
    /// What is shown to them; what the environment says if nothing else was told.
    outgoing: Option<auth::Outgoing>,
    /// The last look: who said what.
    rows: Vec<(Address, LogStatusRow)>,
    path: Option<lsn::Path>,
    end: Lsn,
}

/// What a look tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The log ends here, surely.
    Ends(Lsn),
    /// A leader is at work, and will commit this.
    Wait { wanted: Lsn, committed: Lsn },
    /// Nobody leads.
    Undecided { certain: Lsn, possible: Lsn },
}

impl Quorum {
    /// The safekeepers of one cluster; its name is needed if they keep several.
    pub(crate) fn new(safekeepers: Vec<Address>, cluster: Option<String>) -> Quorum {
        Quorum { safekeepers, cluster, outgoing: None, rows: Vec::new(), path: None, end: Lsn::INVALID }
    }

    /// The same, showing this to the safekeepers.
    pub(crate) fn showing(self, outgoing: auth::Outgoing) -> Quorum {
        Quorum { outgoing: Some(outgoing), ..self }
    }

    /// The members' rows of the last look.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &LogStatusRow> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// The history file of a TLI, from whoever has it.
    pub(crate) async fn history(&self, tli: Tli) -> Option<String> {
        for (address, row) in &self.rows {
            let extra = choosing(row);
            let asked = async {
                let mut connection = connect(address, &extra, self.outgoing.as_ref()).await.ok()?;
                let rows = connection.simple_query(&Command::TimelineHistory { tli }.to_string()).await.ok()?;
                rows.first().and_then(|row| row.text(1)).map(str::to_owned)
            };
            if let Ok(Some(text)) = tokio::time::timeout(ANSWER_WITHIN, asked).await {
                return Some(text);
            }
        }
        None
    }

    /// Asks until the end of the log is certain.
    pub(crate) async fn look(&mut self) -> Result<QuorumEnd, QuorumError> {
        let started = Instant::now();
        // What was flushed at the first look is what must be reached; later writes need not.
        let mut goal = None;
        loop {
            let (rows, missing) = self.ask().await?;
            let verdict = judge(&rows.iter().map(|(_, row)| row).collect::<Vec<_>>(), missing, goal);
            self.rows = rows;
            match verdict {
                Verdict::Ends(end) => {
                    let newest = self.rows.iter().map(|(_, row)| row).max_by_key(|row| (row.last_log_term, row.flush));
                    let path = newest.and_then(|row| row.path.clone()).ok_or(QuorumError::Empty)?.cut(end);
                    (self.path, self.end) = (Some(path.clone()), end);
                    return Ok(QuorumEnd { path, end });
                }
                Verdict::Wait { wanted, committed } if started.elapsed() > COMMIT_WITHIN => {
                    return Err(QuorumError::Stuck { wanted, committed });
                }
                Verdict::Wait { wanted, .. } => goal = Some(wanted),
                Verdict::Undecided { certain, possible } if started.elapsed() > ANSWER_WITHIN => {
                    return Err(QuorumError::Undecided { certain, possible });
                }
                Verdict::Undecided { .. } => {}
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The era of the log that was looked at: its wire `timeline_id`.
    pub(crate) fn era(&self) -> Option<String> {
        self.rows.first().map(|(_, row)| row.cluster.timeline_hex())
    }

    /// One round of LOG_STATUS: the members' rows of the cluster, and how many members did not answer.
    async fn ask(&self) -> Result<(Vec<(Address, LogStatusRow)>, usize), QuorumError> {
        let (mut rows, mut failures) = (Vec::new(), Vec::new());
        let answers = futures_util::future::join_all(
            self.safekeepers.iter().map(|address| log_status(address, self.outgoing.as_ref())),
        )
        .await;
        for (address, answer) in self.safekeepers.iter().zip(answers) {
            match answer {
                Ok(found) => rows.extend(found.into_iter().map(|row| (address.clone(), row))),
                Err(failure) => failures.push(format!("{address}: {failure}")),
            }
        }
        rows.retain(|(_, row)| self.cluster.as_ref().is_none_or(|name| *name == row.name));
        let mut ids: Vec<_> = rows.iter().map(|(_, row)| row.cluster).collect();
        ids.sort_unstable();
        ids.dedup();
        match ids[..] {
            [_] => {}
            [] if failures.len() < self.safekeepers.len().div_ceil(2) => {
                return Err(QuorumError::Cluster("the safekeepers do not know the cluster".to_owned()));
            }
            [] => {
                return Err(QuorumError::NoMajority { answered: 0, members: self.safekeepers.len(), failures });
            }
            _ => {
                return Err(QuorumError::Cluster(
                    "the safekeepers keep several clusters; name one with --cluster".to_owned(),
                ));
            }
        }
        let record = rows.iter().map(|(_, row)| &row.membership).max_by_key(|record| record.precedence()).cloned();
        let members: Vec<_> =
            record.iter().flat_map(|record| record.all_members()).map(|member| (member.node, member.disk)).collect();
        rows.retain(|(_, row)| row.state == LogState::Member && members.contains(&(row.node, row.disk)));
        rows.sort_by_key(|(_, row)| row.node);
        rows.dedup_by_key(|(_, row)| row.node);
        if rows.len() * 2 <= members.len() {
            return Err(QuorumError::NoMajority { answered: rows.len(), members: members.len(), failures });
        }
        let missing = members.len() - rows.len();
        Ok((rows, missing))
    }
}

/// Where the log of these members ends; `missing` more did not answer. `goal` is what an earlier look waits for.
fn judge(rows: &[&LogStatusRow], missing: usize, goal: Option<Lsn>) -> Verdict {
    let majority = (rows.len() + missing) / 2 + 1;
    let committed = rows.iter().map(|row| row.commit).max().unwrap_or_default();
    let highest = rows.iter().map(|row| row.flush).max().unwrap_or_default();
    let term = rows.iter().map(|row| row.last_log_term).max().unwrap_or_default();
    let wanted = goal.unwrap_or(highest).min(highest.max(committed));
    if committed >= wanted {
        return Verdict::Ends(committed);
    }
    let led = rows.iter().filter(|row| row.leader_silent_ms.is_some_and(|silent| silent < LEADER_ALIVE_MS)).count();
    if led >= majority {
        return Verdict::Wait { wanted, committed };
    }
    // Flushed in the newest term, highest first: the majority-th is on a majority, and a term's bytes on a majority stay.
    let mut newest: Vec<Lsn> = rows.iter().filter(|row| row.last_log_term == term).map(|row| row.flush).collect();
    newest.sort_unstable_by(|a, b| b.cmp(a));
    let certain = newest.get(majority - 1).copied().unwrap_or_default().max(committed);
    // Members that are silent may have whatever anybody has; one is enough to make a majority of majority - missing.
    let mut all: Vec<Lsn> = rows.iter().map(|row| row.flush).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    let possible = all.get(majority.saturating_sub(1 + missing)).copied().unwrap_or(highest).max(committed);
    if possible <= certain { Verdict::Ends(certain) } else { Verdict::Undecided { certain, possible } }
}

/// A replication connection to the cluster of a row.
fn choosing(row: &LogStatusRow) -> StartupExtra {
    let id = row.cluster;
    StartupExtra {
        replication: true,
        application_name: Some("seawall restore".to_owned()),
        options: Some(format!("-c tenant_id={} -c timeline_id={}", id.tenant_hex(), id.timeline_hex())),
        dbname: None,
    }
}

async fn connect(
    address: &Address,
    extra: &StartupExtra,
    outgoing: Option<&auth::Outgoing>,
) -> Result<Connection, String> {
    let info = "user=seawall connect_timeout=5".parse::<ConnInfo>();
    let info = info.and_then(|info| info.with("host", &address.host)?.with("port", &address.port.to_string()));
    let shown = match outgoing {
        Some(outgoing) => outgoing.settings(&address.host),
        None => crate::process::outgoing_from_env().and_then(|outgoing| outgoing.settings(&address.host)),
    };
    let shown = shown.map_err(|error| error.to_string())?;
    let info = shown.iter().try_fold(info.map_err(|error| error.to_string())?, |info, (key, value)| {
        info.with(key, value).map_err(|error| error.to_string())
    })?;
    pg_conn::connect(&info, extra).await.map_err(|error| error.to_string())
}

async fn log_status(address: &Address, outgoing: Option<&auth::Outgoing>) -> Result<Vec<LogStatusRow>, String> {
    let ask = async {
        let mut connection = connect(address, &StartupExtra::default(), outgoing).await?;
        let rows = connection.simple_query(&Command::LogStatus { since: None }.to_string()).await;
        let rows = rows.map_err(|error| error.to_string())?;
        rows.iter()
            .map(|row| LogStatusRow::from_row(|column| row.get(column)).map_err(|error| error.to_string()))
            .collect()
    };
    let late = || Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
    tokio::time::timeout(ANSWER_WITHIN, ask).await.unwrap_or_else(|_| late())
}

impl source::Tail for Quorum {
    type Error = QuorumError;
    type Stream = TailStream;

    async fn end(&mut self) -> Result<Lsn, QuorumError> {
        self.look().await.map(|end| end.end)
    }

    async fn read(&mut self, from: Lsn, end: Lsn) -> Result<TailStream, QuorumError> {
        if self.path.is_none() || self.end < end {
            self.look().await?;
        }
        let path = self.path.clone().ok_or(QuorumError::Empty)?;
        // Only a log of the newest term is surely the one that counts; the fullest first.
        let term = self.rows.iter().map(|(_, row)| row.last_log_term).max().unwrap_or_default();
        let mut donors: Vec<_> =
            self.rows.iter().filter(|(_, row)| row.last_log_term == term && row.flush >= end).cloned().collect();
        donors.sort_by_key(|(_, row)| std::cmp::Reverse(row.flush));
        let mut failures = Vec::new();
        for (address, row) in donors {
            let opened = async {
                let extra = choosing(&row);
                let connection = connect(&address, &extra, self.outgoing.as_ref());
                let connection = tokio::time::timeout(ANSWER_WITHIN, connection).await;
                let connection = connection.map_err(|_| "no answer".to_owned())??;
                let stream =
                    TailStream::begin_on(connection, format!("safekeeper {address}"), &path, Some(row.term), from, end);
                stream.await.map_err(|error| error.to_string())
            };
            match opened.await {
                Ok(stream) => return Ok(stream),
                Err(failure) => failures.push(format!("{address}: {failure}")),
            }
        }
        Err(QuorumError::Bytes { from, to: end, failures })
    }
}

/// WAL of one safekeeper, TLI after TLI, under the term it had when it was asked; or of a server, which has no terms.
#[derive(Debug)]
pub(crate) struct TailStream {
    source: String,
    connection: Connection,
    path: lsn::Path,
    term: Option<Term>,
    end: Lsn,
    at: Lsn,
    session: Option<Receiver>,
}

impl TailStream {
    /// Streams on a replication connection to whoever has this path: a safekeeper, under its term, or a server. `source` names it.
    pub(crate) async fn begin_on(
        connection: Connection,
        source: String,
        path: &lsn::Path,
        term: Option<Term>,
        from: Lsn,
        end: Lsn,
    ) -> Result<TailStream, QuorumError> {
        let mut stream = TailStream { source, connection, path: path.clone(), term, end, at: from, session: None };
        stream.begin().await?;
        Ok(stream)
    }

    fn broken(&self, problem: impl ToString) -> QuorumError {
        QuorumError::Broken { source_name: self.source.clone(), at: self.at, problem: problem.to_string() }
    }

    /// The TLI of the next byte, and where the log leaves it.
    fn tli(&self) -> (Tli, Lsn) {
        let next = self.path.entries().iter().map(|entry| entry.begin).filter(|begin| *begin > self.at).min();
        (self.path.tli_at(self.at), next.unwrap_or(self.end).min(self.end))
    }

    /// Begins to stream on the TLI of the next byte.
    async fn begin(&mut self) -> Result<(), QuorumError> {
        let start = StartReplication { term: self.term, ..StartReplication::new(self.at, self.tli().0) };
        let receiver =
            Receiver::new(start, Timeouts { silence: Duration::from_secs(30), ..Timeouts::default() }, Instant::now());
        let command = receiver.command();
        self.session = Some(receiver);
        pq_proto::frontend::encode_query(&command, self.connection.writer().buffer())
            .map_err(|error| self.broken(error))?;
        match self.event().await? {
            Event::Started => Ok(()),
            Event::EndOfTli(NextTli { start, .. }) => Err(self.broken(format!("its TLI ends at {start}"))),
            Event::Ended(End::Error(report)) => Err(self.broken(report)),
            _ => Err(self.broken("an unexpected answer")),
        }
    }

    async fn event(&mut self) -> Result<Event, QuorumError> {
        loop {
            let Some(receiver) = &mut self.session else { return Err(self.broken("no session")) };
            while let Some(transmit) = receiver.poll_transmit(Instant::now(), PgTime::from(SystemTime::now())) {
                transmit.encode(self.connection.writer().buffer());
            }
            let timeout = receiver.poll_timeout().unwrap_or_else(|| Instant::now() + Duration::from_secs(30));
            let (reader, writer) = self.connection.halves();
            let queued = writer.queued() > 0;
            let outcome = tokio::select! {
                biased;
                written = writer.flush(), if queued => written.map(|()| None),
                message = reader.recv() => message.map(Some),
                () = tokio::time::sleep_until(timeout.into()) => Ok(None),
            };
            let event = match outcome {
                Ok(Some(message)) => receiver.handle_message(Instant::now(), message),
                Ok(None) => receiver.handle_timeout(Instant::now()).map(|()| None),
                Err(error) => return Err(self.broken(error)),
            };
            if let Some(event) = event.map_err(|error| self.broken(error))? {
                return Ok(event);
            }
        }
    }
}

impl source::Stream for TailStream {
    type Position = Lsn;
    type Error = QuorumError;

    async fn next_chunk(&mut self) -> Result<Option<Chunk<Lsn>>, QuorumError> {
        loop {
            if self.at >= self.end {
                return Ok(None);
            }
            match self.event().await? {
                Event::Wal { begin, mut bytes, .. } => {
                    let (_, limit) = self.tli();
                    bytes.truncate(limit.bytes_since(begin).min(bytes.len() as u64) as usize);
                    self.at = begin.saturating_add(bytes.len() as u64);
                    if !bytes.is_empty() {
                        return Ok(Some(Chunk { begin, bytes }));
                    }
                }
                Event::Started | Event::Keepalive { .. } => {}
                // The rest lies on the TLI that follows; the connection takes another command.
                Event::EndOfTli(_) if self.at < self.end => self.begin().await?,
                Event::EndOfTli(_) => return Ok(None),
                Event::Ended(End::Error(report)) => return Err(self.broken(report)),
                Event::Ended(_) => return Err(self.broken("the safekeeper ended it")),
            }
        }
    }
}

#[cfg(test)]
#[path = "quorum_test.rs"]
mod tests;
