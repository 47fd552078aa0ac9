//! One safekeeper's disk: a control file and a log, each with what is durable and what a crash may take away.
//!
//! The log's byte 0 means "never written": a scan at start-up stops there. What stands above the end that the scan found
//! stays on the disk, as on a real one, until a cut removes it or a write covers it.

use crate::rng::Rng;
use consensus::AcceptorState;
use lsn::{Lsn, Path};

/// First byte of every log of the model, a segment start.
pub(crate) const FIRST: u64 = 1 << 20;
/// Set in the last byte of a record.
pub(crate) const RECORD_END: u8 = 0x80;

/// How many of these bytes are whole records.
pub(crate) fn whole_records(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| byte & RECORD_END != 0).map_or(0, |last| last + 1)
}

/// Index of a position in a log.
pub(crate) fn index(position: u64) -> usize {
    position.saturating_sub(FIRST) as usize
}

fn overwrite(image: &mut Vec<u8>, begin: usize, bytes: &[u8]) {
    if image.len() < begin + bytes.len() {
        image.resize(begin + bytes.len(), 0);
    }
    image[begin..begin + bytes.len()].copy_from_slice(bytes);
}

#[derive(Debug)]
pub(crate) struct Disk {
    /// What the control file holds.
    pub(crate) control: AcceptorState,
    /// The write of it that is under way.
    pub(crate) persisting: Option<(u64, AcceptorState)>,
    /// The cut under way.
    pub(crate) cutting: Option<Lsn>,
    /// The path by which bytes are given their places.
    pub(crate) path: Option<Path>,
    /// End of the bytes taken in; 0 while there is no log.
    pub(crate) written: u64,
    /// End of the durable bytes.
    pub(crate) synced: u64,
    durable: Vec<u8>,
    /// Writes since the last finished sync, oldest first.
    cache: Vec<(usize, Vec<u8>)>,
    /// Writes a running sync covers, and the end it makes durable.
    syncing: Option<(usize, u64)>,
    /// The log as a reader sees it: durable bytes with the cache over them.
    view: Vec<u8>,
}

impl Disk {
    pub(crate) fn new(control: AcceptorState) -> Disk {
        Disk {
            control,
            persisting: None,
            cutting: None,
            path: None,
            written: 0,
            synced: 0,
            durable: Vec::new(),
            cache: Vec::new(),
            syncing: None,
            view: Vec::new(),
        }
    }

    /// The log's bytes below `end`.
    pub(crate) fn log(&self, end: u64) -> &[u8] {
        &self.view[..index(end)]
    }

    pub(crate) fn write(&mut self, begin: u64, bytes: &[u8]) {
        assert_eq!(begin, self.written, "writes follow each other");
        assert!(self.cutting.is_none(), "nothing is written during a cut");
        self.smear(bytes);
        self.written += bytes.len() as u64;
    }

    /// Leaves bytes above the end without counting them, as a write that failed half-way does.
    pub(crate) fn smear(&mut self, bytes: &[u8]) {
        let begin = index(self.written);
        overwrite(&mut self.view, begin, bytes);
        self.cache.push((begin, bytes.to_vec()));
    }

    pub(crate) fn is_syncing(&self) -> bool {
        self.syncing.is_some()
    }

    pub(crate) fn start_sync(&mut self) {
        if self.syncing.is_none() && self.written > self.synced {
            self.syncing = Some((self.cache.len(), self.written));
        }
    }

    /// Ends a running sync: end of the durable bytes and end of the last whole record among them.
    pub(crate) fn finish_sync(&mut self) -> Option<(Lsn, Lsn)> {
        let (writes, end) = self.syncing.take()?;
        for (begin, bytes) in self.cache.drain(..writes) {
            overwrite(&mut self.durable, begin, &bytes);
        }
        self.synced = end;
        Some((Lsn(end), Lsn(FIRST + whole_records(self.log(end)) as u64)))
    }

    pub(crate) fn start_cut(&mut self, to: Lsn, first: bool, path: Path) {
        assert!(self.cutting.is_none() && self.syncing.is_none() && self.persisting.is_none(), "a cut runs alone");
        assert_eq!(self.written, self.synced, "a cut begins when all is durable");
        assert!(
            first == (self.written == 0) && (first || to.0 <= self.written),
            "a cut to {to} of a log to {}",
            self.written
        );
        self.cutting = Some(to);
        self.path = Some(path);
    }

    pub(crate) fn finish_cut(&mut self) -> bool {
        let Some(to) = self.cutting.take() else { return false };
        self.cache.clear();
        self.durable.truncate(index(to.0));
        self.view.clone_from(&self.durable);
        (self.written, self.synced) = (to.0, to.0);
        true
    }

    /// A crash: the control file is the old or the new one, a prefix of the unsynced bytes survives, a cut got anywhere.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        if let Some((_, state)) = self.persisting.take()
            && rng.one_in(2)
        {
            self.control = state;
        }
        let unsynced: usize = self.cache.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut survives = if rng.one_in(3) { unsynced } else { rng.below(unsynced + 1) };
        for (begin, bytes) in self.cache.drain(..) {
            let kept = bytes.len().min(survives);
            overwrite(&mut self.durable, begin, &bytes[..kept]);
            survives -= kept;
        }
        if let Some(to) = self.cutting.take().map(|to| index(to.0)) {
            let end = self.durable.len();
            if end > to {
                let from = to + rng.below(end - to + 1);
                let until = from + rng.below(end - from + 1);
                let whole = rng.one_in(3);
                self.durable[if whole { to..end } else { from..until }].fill(0);
            }
        }
        self.syncing = None;
    }

    /// Start-up: the announced cut again, then the scan. Gives the end of the last whole record, 0 without a log.
    pub(crate) fn recover(&mut self) -> Lsn {
        self.path.clone_from(&self.control.path);
        if !self.control.log_start.is_valid() {
            self.durable.clear();
            self.view.clear();
            (self.written, self.synced) = (0, 0);
            return Lsn(0);
        }
        if let Some(cutting) = self.control.cutting {
            self.durable.truncate(index(cutting.to.0));
        }
        let valid = self.durable.iter().position(|&byte| byte == 0).unwrap_or(self.durable.len());
        let end = FIRST + whole_records(&self.durable[..valid]) as u64;
        self.view.clone_from(&self.durable);
        (self.written, self.synced) = (end, end);
        Lsn(end)
    }

    /// Takes away everything from `end` on, as a disk that forgets what it had made durable.
    pub(crate) fn lose(&mut self, end: u64) {
        self.durable.truncate(index(end));
    }
}
