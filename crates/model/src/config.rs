//! [`Config`]: how large a world is, and what may happen in it.

/// A world to explore. Positions count bytes from the first one of the log; a byte is what one append carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it adds to the others, for a list.
    pub about: &'static str,
    /// Proposers, 1 or 2. Each may be started anew at any time, so there may be any number of lives.
    pub proposers: usize,
    /// Safekeepers, members and others.
    pub nodes: usize,
    /// Highest term anybody asks for.
    pub terms: u64,
    /// Most bytes a log may have.
    pub log: usize,
    /// Bytes of a record, 1 or 2. With 2 a log can end inside a record.
    pub record: usize,
    /// Safekeepers crash and start again, also between any two steps of their disks.
    pub crashes: bool,
    /// Commit LSN and floor are written down now and then; otherwise at the end of every step.
    pub lagging: bool,
    /// Leaders send their commit LSN alone, not only with a byte.
    pub beats: bool,
    /// Messages travel: every session is a pair of queues, sessions break, and what was on its way may still arrive.
    pub messages: bool,
    /// Disks finish each write when they like; meanwhile other messages arrive.
    pub disks: bool,
    /// A leader opens a session for every single message and ends it afterwards, and crashes of safekeepers come right before a message or
    /// in the middle of processing one. What a safekeeper only has in memory is gone after every step then, so that worlds differ
    /// in what is durable and in what leaders know alone.
    pub brief: bool,
    /// Only what changes a log: campaigns that win, elections and bytes.
    pub terse: bool,
    /// A superseded leader goes on sending.
    pub stubborn: bool,
    /// Servers there may be: with more than one, primaries are promoted or copied, and a proposer must prove that its one contains
    /// the quorum's log. With none, a leader has the donor's log.
    pub servers: usize,
    /// Servers are also copied on their own TLI.
    pub clones: bool,
    /// A term is won to set a fence.
    pub fences: bool,
    /// Disks that may be emptied.
    pub emptied: usize,
    /// Disks that may lose the end of what they held, or be put back to what they were at first.
    pub forgetful: usize,
    /// The first members, if not all nodes, and those that they may be changed to.
    pub members: Option<(&'static [usize], &'static [usize])>,
    /// Whether in every state a majority that is up must be able to commit.
    pub progress: bool,
}

const BASE: Config = Config {
    name: "",
    about: "",
    proposers: 2,
    nodes: 3,
    terms: 2,
    log: 2,
    record: 1,
    crashes: false,
    lagging: false,
    beats: true,
    messages: false,
    disks: false,
    brief: false,
    terse: false,
    stubborn: false,
    servers: 0,
    clones: false,
    fences: false,
    emptied: 0,
    forgetful: 0,
    members: None,
    progress: false,
};

impl Config {
    /// Whether a campaign is one step: messages and disks are instant, so a vote commutes with everything that happens elsewhere before
    /// the next one, and only which safekeepers gave theirs makes a difference.
    pub(crate) fn is_atomic(&self) -> bool {
        !self.messages && !self.disks
    }
}

/// The worlds that have a name.
pub const CONFIGS: &[Config] = &[
    Config {
        name: "base",
        about: "elections and appends, crashes at every step, progress from everywhere",
        crashes: true,
        brief: true,
        progress: true,
        ..BASE
    },
    Config { name: "calm", about: "sessions that last, no crashes", stubborn: true, log: 1, ..BASE },
    Config { name: "calm-t2l2", about: "the same, two bytes", stubborn: true, ..BASE },
    Config { name: "crashes", about: "sessions that last, crashes at every step", terms: 1, crashes: true, ..BASE },
    Config { name: "crashes-t2l1", about: "the same, two terms", log: 1, crashes: true, ..BASE },
    Config { name: "lag", about: "commit LSNs written down late", terms: 1, crashes: true, lagging: true, ..BASE },
    Config { name: "records", about: "records of two bytes", record: 2, terms: 1, crashes: true, ..BASE },
    Config {
        name: "disks",
        about: "disks that finish when they like",
        terms: 1,
        log: 1,
        disks: true,
        crashes: true,
        ..BASE
    },
    Config { name: "disks-t2l1", about: "the same, two terms", log: 1, crashes: true, disks: true, ..BASE },
    Config {
        name: "messages",
        about: "messages that travel, sessions that break, one proposer at a time",
        proposers: 1,
        log: 1,
        messages: true,
        ..BASE
    },
    Config { name: "messages-t2l2", about: "the same, two proposers and bytes", messages: true, ..BASE },
    Config { name: "paths", about: "promotions that fork", servers: 2, brief: true, beats: false, ..BASE },
    Config {
        name: "paths-t3l1",
        about: "promotions that fork, three terms, only what changes a log",
        terms: 3,
        log: 1,
        servers: 2,
        brief: true,
        terse: true,
        ..BASE
    },
    Config {
        name: "clones",
        about: "promotions and copies on one TLI",
        servers: 2,
        clones: true,
        brief: true,
        terse: true,
        ..BASE
    },
    Config {
        name: "fence",
        about: "a fence, and promotions before and after it",
        servers: 2,
        fences: true,
        brief: true,
        terse: true,
        ..BASE
    },
    Config { name: "emptied", about: "a disk that is emptied", emptied: 1, brief: true, beats: false, ..BASE },
    Config { name: "forgetful", about: "a disk that forgets or goes back in time", forgetful: 1, brief: true, ..BASE },
    Config {
        name: "relearn",
        about: "one leader and a disk that forgets",
        proposers: 1,
        terms: 1,
        forgetful: 1,
        ..BASE
    },
    Config {
        name: "members",
        about: "one of three replaced, only what changes a log",
        nodes: 4,
        members: Some((&[0, 1, 2], &[1, 2, 3])),
        brief: true,
        terse: true,
        ..BASE
    },
    Config {
        name: "moved",
        about: "one safekeeper replaced by two others, three terms",
        terms: 3,
        members: Some((&[0], &[1, 2])),
        brief: true,
        ..BASE
    },
    Config { name: "terms", about: "three terms, one byte", terms: 3, log: 1, brief: true, ..BASE },
    Config { name: "terse", about: "three terms, only what changes a log", terms: 3, brief: true, terse: true, ..BASE },
    Config { name: "base-t3l2", about: "base with three terms", terms: 3, crashes: true, brief: true, ..BASE },
    Config {
        name: "base-t3l3",
        about: "base with three terms and bytes",
        terms: 3,
        log: 3,
        crashes: true,
        brief: true,
        ..BASE
    },
    Config {
        name: "figure-8",
        about: "four terms, only what changes a log",
        terms: 4,
        brief: true,
        terse: true,
        ..BASE
    },
];

/// The world with this name.
pub fn config(name: &str) -> Option<Config> {
    CONFIGS.iter().find(|config| config.name == name).cloned()
}
