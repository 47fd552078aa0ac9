//! Pages of a verified WAL, written to the database file.
//!
//! A life that is not the newest must be whole: a frame that does not continue the chain, bytes behind the last frame, or a transaction
//! without its end are damage. The newest may end within a transaction (its writer cuts huge ones), which is then left out. The file is
//! nobody's database yet, so what an error leaves in it does not matter.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use replica_client::Generation;
use sqlite_wal::{HEADER_LEN, Header, Stream, StreamError};

use super::{Error, local};

/// Applies the lives of one generation, one after another.
pub(super) struct Applier<'a> {
    generation: Generation,
    database: &'a File,
    path: &'a Path,
    page_size: Option<u32>,
    last: Option<Header>,
    /// Every life must be counted on from the one before.
    counted: bool,
}

/// First salts so close together were counted, not drawn.
const LIVES_COUNTED: u32 = 0xffff;

/// One life's file.
pub(super) struct Life<'a> {
    pub(super) index: u64,
    pub(super) path: &'a Path,
    /// No life comes after it.
    pub(super) newest: bool,
    /// Only so many bytes of it.
    pub(super) cut: Option<u64>,
    /// How long it was, as its writer told.
    pub(super) length: Option<u64>,
}

const STEP: usize = 1 << 20;

impl<'a> Applier<'a> {
    /// Of a database file that holds the snapshot; `page_size` is that of its header, if it has one.
    pub(super) fn new(
        generation: Generation,
        database: &'a File,
        path: &'a Path,
        page_size: Option<u32>,
    ) -> Applier<'a> {
        Applier { generation, database, path, page_size, last: None, counted: true }
    }

    /// Takes lives whose salts were drawn, not counted on: Litestream goes on after a WAL that was removed or cut, and then only the keys say
    /// which life comes after which. Our own replicas have none.
    pub(super) fn with_drawn_salts(mut self) -> Applier<'a> {
        self.counted = false;
        self
    }

    /// Goes on behind a life with this header.
    pub(super) fn resume(&mut self, last: Option<Header>) {
        self.last = last;
    }

    /// What the next [`Applier`] goes on with.
    pub(super) fn state(&self) -> (Option<u32>, Option<Header>) {
        (self.page_size, self.last)
    }

    /// Applies a life; says how many bytes of it count.
    pub(super) fn apply(&mut self, life: &Life<'_>) -> Result<u64, Error> {
        let damaged = |reason: String| Error::Wal { generation: self.generation, index: life.index, reason };
        let mut file = File::open(life.path).map_err(local("open", life.path))?;
        let length = file.metadata().map_err(local("look at", life.path))?.len();
        if let Some(told) = life.length
            && length < told
        {
            return Err(damaged(format!("it was {told} bytes long, and only {length} are there: a piece is missing")));
        }
        let until = life.cut.unwrap_or(length);
        if until > length {
            return Err(damaged(format!("offset {until} is wanted, and only {length} bytes are there")));
        }
        // Where the last transaction ends has to be known before its first page is written.
        let until = match life.newest && life.cut.is_none() {
            true => self.committed(&mut file, life, until)?,
            false => until,
        };
        if until < HEADER_LEN as u64 {
            return Err(damaged(format!("offset {until} is within its header")));
        }
        file.seek(SeekFrom::Start(0)).map_err(local("read", life.path))?;
        let mut stream = Stream::new();
        self.walk(&mut file, life, until, &mut stream, |this, page_number, page| {
            let offset = u64::from(page_number - 1) * page.len() as u64;
            this.database.write_all_at(page, offset).map_err(local("write", this.path))
        })?;
        let end = stream.finish().map_err(|error| damaged(error.to_string()))?;
        if let Some(pages) = end.pages {
            let bytes = u64::from(pages.get()) * u64::from(end.header.page_size.bytes());
            self.database.set_len(bytes).map_err(local("cut", self.path))?;
        }
        self.page_size = Some(end.header.page_size.bytes());
        self.last = Some(end.header);
        Ok(until)
    }

    /// Verifies a life to its end; gives where its last whole transaction ends.
    fn committed(&self, file: &mut File, life: &Life<'_>, until: u64) -> Result<u64, Error> {
        let mut stream = Stream::new();
        self.walk(file, life, until, &mut stream, |_, _, _| Ok(()))?;
        let committed = stream.chain().map(|chain| chain.committed());
        match stream.finish() {
            Ok(end) => Ok(end.len),
            Err(StreamError::Uncommitted { committed, .. }) => Ok(committed),
            Err(error @ StreamError::Torn { .. }) => {
                let reason = format!("{error} (transactions up to {})", committed.unwrap_or_default());
                Err(Error::Wal { generation: self.generation, index: life.index, reason })
            }
            Err(error) => Err(Error::Wal { generation: self.generation, index: life.index, reason: error.to_string() }),
        }
    }

    fn walk(
        &self,
        file: &mut File,
        life: &Life<'_>,
        until: u64,
        stream: &mut Stream,
        mut each: impl FnMut(&Self, u32, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let damaged = |reason: String| Error::Wal { generation: self.generation, index: life.index, reason };
        let mut left = until;
        let mut checked = false;
        let mut buffer = vec![0; STEP];
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(STEP).min(STEP);
            let read = file.read(&mut buffer[..step]).map_err(local("read", life.path))?;
            if read == 0 {
                return Err(damaged("its local copy was cut short".to_owned()));
            }
            left -= read as u64;
            let mut rest = &buffer[..read];
            loop {
                let Some(frame) = stream.next(&mut rest).map_err(|error| damaged(error.to_string()))? else { break };
                each(self, frame.page_number.get(), frame.page)?;
            }
            if let (false, Some(chain)) = (checked, stream.chain()) {
                self.follows(chain.header()).map_err(damaged)?;
                checked = true;
            }
        }
        Ok(())
    }

    /// Whether a life with this header can come here.
    fn follows(&self, header: &Header) -> Result<(), String> {
        let pages = header.page_size.bytes();
        if self.page_size.is_some_and(|page_size| page_size != pages) {
            let before = self.page_size.unwrap_or_default();
            return Err(format!("its pages have {pages} bytes, those before it {before}"));
        }
        // SQLite counts both up by one when it begins a life anew.
        if let Some(last) = &self.last {
            let ahead = header.salts.first().wrapping_sub(last.salts.first());
            let drawn = ahead.min(ahead.wrapping_neg()) > LIVES_COUNTED;
            let follows = ahead == 1 || last.sequence.wrapping_add(1) == header.sequence;
            if !follows && (self.counted || !drawn) {
                return Err(
                    "it does not follow the life before it: objects are exchanged, or a life is missing".to_owned()
                );
            }
        }
        Ok(())
    }
}
