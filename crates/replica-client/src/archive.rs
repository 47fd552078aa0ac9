//! PostgreSQL's archive: eras below it, and what an era's replica has besides generations and pieces.
//!
//! An era is one unbroken WAL of a cluster at `<archive>/postgres/<system id>/<era>`. Its object is made once and never
//! changed: who wants to write must find it saying what they are, so two clusters with one system identifier (a copy of a
//! data directory, say) cannot mix their WAL. Parent links and history files are made once, too.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use lsn::{Lsn, SegmentSize, SystemId};
use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::error::{Error, Kind};
use crate::layout::Layout;
use crate::layout::postgres::{ERA, PARENT, history_file};
use crate::names::Generation;
use crate::replica::Replica;
use crate::seal::{from_sealed, to_sealed};
use crate::store::{Created, Store};

/// The longest era object or parent link.
const MAX_SMALL: u64 = 64 << 10;
/// The longest history file: more lines than anybody ever promoted.
const MAX_HISTORY: u64 = 1 << 20;

/// An era's name: 1 to 64 of `0-9a-z-`. With a quorum the cluster's wire `timeline_id` as 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EraName(String);

/// Text that is not an era's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of an era (1 to 64 of 0-9, a-z and -)")]
pub struct EraNameError(String);

impl EraName {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<EraName, EraNameError> {
        let allowed = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(EraName(text.to_owned()))
        } else {
            Err(EraNameError(text.to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EraName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EraName {
    type Error = EraNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        EraName::parse(&text)
    }
}

impl From<EraName> for String {
    fn from(name: EraName) -> Self {
        name.0
    }
}

/// What an era's object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Era {
    /// PostgreSQL's system identifier.
    pub system_id: SystemId,
    /// The era's name.
    pub name: EraName,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// `server_version_num` of the first server, 0 if unknown.
    pub server_version: u32,
    /// The cluster's name in the configuration, for people.
    pub cluster: String,
    /// The era before this one, if there was one and it is known.
    pub previous: Option<EraName>,
}

#[derive(Serialize, Deserialize)]
struct EraObject {
    version: u32,
    system_id: String,
    era: EraName,
    segment_size: u64,
    server_version: u32,
    cluster: String,
    previous: Option<EraName>,
}

impl Era {
    fn to_json(&self) -> Result<Bytes, Error> {
        let object = EraObject {
            version: 1,
            system_id: self.system_id.to_string(),
            era: self.name.clone(),
            segment_size: self.segment_size.bytes(),
            server_version: self.server_version,
            cluster: self.cluster.clone(),
            previous: self.previous.clone(),
        };
        to_sealed(&object)
    }

    fn from_json(key: &str, text: &[u8]) -> Result<Era, Error> {
        let bad = |reason: String| Error::Content { key: key.to_owned(), what: "era object", reason };
        let object: EraObject = from_sealed(key, "era object", text)?;
        if object.version != 1 {
            return Err(bad(format!("version {} is newer than this program", object.version)));
        }
        Ok(Era {
            system_id: object.system_id.parse().map_err(|error: lsn::ParseIdError| bad(error.to_string()))?,
            name: object.era,
            segment_size: SegmentSize::new(object.segment_size).map_err(|error| bad(error.to_string()))?,
            server_version: object.server_version,
            cluster: object.cluster,
            previous: object.previous,
        })
    }

    /// Whether both are about the same WAL; the rest is for people.
    fn agrees(&self, other: &Era) -> bool {
        (self.system_id, &self.name, self.segment_size) == (other.system_id, &other.name, other.segment_size)
    }
}

/// An archive: replicas of the eras of any number of clusters.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Store,
    codec: Codec,
}

impl Archive {
    /// With this root.
    pub fn new(store: Store, codec: Codec) -> Archive {
        Archive { store, codec }
    }

    /// Where it is.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn era_store(&self, system: SystemId, era: &EraName) -> Store {
        self.store.below(&format!("postgres/{system}/{era}"))
    }

    fn replica(&self, era: Era) -> PostgresReplica {
        let store = self.era_store(era.system_id, &era.name);
        PostgresReplica { replica: Replica::postgres(store, self.codec.clone(), era.segment_size), era }
    }

    /// Every era there is, by system identifier and name. A listing per system and one more, a read per era.
    pub async fn eras(&self) -> Result<Vec<Era>, Error> {
        let mut eras = Vec::new();
        for system in self.store.folders("postgres").await? {
            let Ok(system_id) = system.parse::<SystemId>() else { continue };
            for name in self.store.folders(&format!("postgres/{system}")).await? {
                let Ok(name) = EraName::parse(&name) else { continue };
                match self.open(system_id, &name).await {
                    Ok(replica) => eras.push(replica.era),
                    // A folder without an era object: somebody was interrupted before anything counted.
                    Err(error) if error.kind() == Kind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        eras.sort_by(|a, b| (a.system_id.0, &a.name).cmp(&(b.system_id.0, &b.name)));
        Ok(eras)
    }

    /// Makes the era's object unless it is there, and opens its replica. One that says another system, name or segment size is
    /// [`Error::Different`].
    pub async fn claim(&self, era: &Era) -> Result<PostgresReplica, Error> {
        let store = self.era_store(era.system_id, &era.name);
        let there = match store.create(ERA, era.to_json()?).await {
            Ok(_) => era.clone(),
            Err(Error::Different { .. }) => self.read_era(&store).await?,
            Err(error) => return Err(error),
        };
        if !era.agrees(&there) {
            return Err(Error::Different {
                key: format!("{}/{ERA}", store.root()),
                there: format!("system {} with segments of {}", there.system_id, there.segment_size),
                ours: format!("system {} with segments of {}", era.system_id, era.segment_size),
            });
        }
        Ok(self.replica(there))
    }

    /// Opens an era's replica; without an era object it is an error of kind `NotFound`.
    pub async fn open(&self, system: SystemId, era: &EraName) -> Result<PostgresReplica, Error> {
        let store = self.era_store(system, era);
        let there = self.read_era(&store).await?;
        if (there.system_id, &there.name) != (system, era) {
            return Err(Error::Content {
                key: format!("{}/{ERA}", store.root()),
                what: "era object of this era",
                reason: format!("it is about era {} of system {}", there.name, there.system_id),
            });
        }
        Ok(self.replica(there))
    }

    async fn read_era(&self, store: &Store) -> Result<Era, Error> {
        Era::from_json(ERA, &store.get(ERA, MAX_SMALL).await?)
    }

    /// The one era there is: of one system, and no other era names it as the one before. Otherwise the error lists them.
    pub async fn only(&self) -> Result<PostgresReplica, Error> {
        let eras = self.eras().await?;
        let newest = |era: &&Era| !eras.iter().any(|other| other.previous.as_ref() == Some(&era.name));
        let mut candidates = eras.iter().filter(newest);
        match (candidates.next(), candidates.next()) {
            (Some(era), None) => Ok(self.replica(era.clone())),
            (None, _) => Err(Error::Choice("there is no PostgreSQL replica at this place".to_owned())),
            (Some(_), Some(_)) => {
                let list: Vec<String> =
                    eras.iter().map(|era| format!("{} era {} ({})", era.system_id, era.name, era.cluster)).collect();
                Err(Error::Choice(format!("there are several replicas here, say which: {}", list.join(", "))))
            }
        }
    }
}

/// Where a generation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// From nowhere: the era begins with it.
    Root,
    /// It left this generation at this LSN.
    Of {
        /// The generation it left.
        generation: Generation,
        /// Where: the first byte that is its own.
        switch: Lsn,
    },
}

#[derive(Serialize, Deserialize)]
struct ParentObject {
    version: u32,
    parent: Option<Generation>,
    switch: Option<String>,
}

/// One era's replica.
#[derive(Debug, Clone)]
pub struct PostgresReplica {
    replica: Replica,
    era: Era,
}

impl Deref for PostgresReplica {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

impl PostgresReplica {
    /// What the era's object says.
    pub fn era(&self) -> &Era {
        &self.era
    }

    fn in_generation(&self, generation: Generation, file: &str) -> String {
        format!("{}/{file}", Layout::Postgres.generation(generation))
    }

    /// Tells where a generation comes from, once; another answer is [`Error::Different`].
    pub async fn put_parent(&self, generation: Generation, parent: Parent) -> Result<Created, Error> {
        let (parent, switch) = match parent {
            Parent::Root => (None, None),
            Parent::Of { generation, switch } => (Some(generation), Some(switch.to_string())),
        };
        let object = to_sealed(&ParentObject { version: 1, parent, switch })?;
        self.store().create(&self.in_generation(generation, PARENT), object).await
    }

    /// Where a generation comes from; `None` if nobody told.
    pub async fn parent(&self, generation: Generation) -> Result<Option<Parent>, Error> {
        let key = self.in_generation(generation, PARENT);
        let text = match self.store().get(&key, MAX_SMALL).await {
            Ok(text) => text,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let bad = |reason: String| Error::Content { key: key.clone(), what: "parent link", reason };
        let object: ParentObject = from_sealed(&key, "parent link", &text)?;
        match (object.version, object.parent, object.switch) {
            (1, None, None) => Ok(Some(Parent::Root)),
            (1, Some(parent), Some(_)) if parent == generation => Err(bad("it is its own parent".to_owned())),
            (1, Some(generation), Some(switch)) => {
                let switch = switch.parse().map_err(|error: lsn::ParseLsnError| bad(error.to_string()))?;
                Ok(Some(Parent::Of { generation, switch }))
            }
            (1, _, _) => Err(bad("a parent and a switch point belong together".to_owned())),
            (version, _, _) => Err(bad(format!("version {version} is newer than this program"))),
        }
    }

    /// All generations, each with where it comes from. One listing, a read per generation.
    pub async fn lineages(&self) -> Result<BTreeMap<Generation, Option<Parent>>, Error> {
        let mut lineages = BTreeMap::new();
        for generation in self.generations().await? {
            lineages.insert(generation, self.parent(generation).await?);
        }
        Ok(lineages)
    }

    /// Stores the history file of a generation's TLI as PostgreSQL wrote it, once; other bytes are [`Error::Different`].
    pub async fn put_history(&self, generation: Generation, content: Bytes) -> Result<Created, Error> {
        if content.len() as u64 > MAX_HISTORY {
            return Err(Error::Usage(format!("a history file of {} bytes", content.len())));
        }
        self.store().create(&self.in_generation(generation, &history_file(generation.tli())), content).await
    }

    /// The history file of a generation's TLI; `None` if it is not archived.
    pub async fn history(&self, generation: Generation) -> Result<Option<Bytes>, Error> {
        let key = self.in_generation(generation, &history_file(generation.tli()));
        match self.store().get(&key, MAX_HISTORY).await {
            Ok(content) => Ok(Some(content)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
