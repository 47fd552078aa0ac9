//! Where in an archive a backup belongs: the era, and the generation of the TLI on which it begins.

use config::BackupFlags;
use jiff::Timestamp;
use lsn::Tli;
use pg_source::backup::BackupFacts;
use replica_client::{
    Archive, Codec, CodecError, Destination, DestinationError, Era, EraName, EraNameError, Generation, Kind, Parent,
    ParseGenerationError, PostgresReplica,
};
use std::time::{Duration, Instant};
use wal_format::history::History;

/// The era of an archive that no quorum fills.
const SOLO: &str = "solo-1";
/// How long the archiver is waited for, that makes an era, or a generation after a promotion.
const ARCHIVER_BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// How long a backup that may begin an era leaves that to an archiver.
pub(super) const ARCHIVER_MAY_BEGIN_FOR: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_secs(2);

/// Why a backup has no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The URL.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// A recipient.
    #[error("a recipient cannot be used: {0}")]
    Codec(#[from] CodecError),
    /// The era's name.
    #[error(transparent)]
    EraName(#[from] EraNameError),
    /// The generation's name.
    #[error(transparent)]
    Generation(#[from] ParseGenerationError),
    /// The archive.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// No archiver has begun.
    #[error(
        "the archive holds nothing of this cluster yet: nothing archives its WAL there, or another URL is meant; with --include-wal the backup brings the WAL it needs along"
    )]
    NoEra,
    /// Several eras, none of which follows the others.
    #[error("the archive holds several eras of this cluster ({0}); choose with --era")]
    SeveralEras(String),
    /// The archive does not know this TLI.
    #[error(
        "the archive holds no WAL of TLI {0}, on which the server is; nothing that backs it up can be restored before it does"
    )]
    NoGeneration(Tli),
    /// The archive knows several.
    #[error("the archive holds several generations of TLI {tli} ({list}); choose with --generation")]
    SeveralGenerations {
        /// The TLI.
        tli: Tli,
        /// Them.
        list: String,
    },
}

impl PlaceError {
    /// Whether the command was given in a way that cannot work.
    pub fn is_usage(&self) -> bool {
        !matches!(self, PlaceError::Replica(_) | PlaceError::NoEra | PlaceError::NoGeneration(_))
    }
}

impl From<PlaceError> for super::schedule::Trouble {
    fn from(error: PlaceError) -> super::schedule::Trouble {
        super::schedule::Trouble(Box::new(error))
    }
}

/// What the flags say about the place.
#[derive(Clone)]
pub struct Place {
    archive: Archive,
    era: Option<EraName>,
    generation: Option<Generation>,
}

impl Place {
    /// Reads the flags; nothing is asked yet.
    pub fn parse(flags: &BackupFlags) -> Result<Place, PlaceError> {
        let codec = Codec::new::<String, &str>(&flags.recipient, &[])?;
        Ok(Place {
            archive: Archive::new(Destination::parse(&flags.replica)?.open()?, codec),
            era: flags.era.as_deref().map(EraName::parse).transpose()?,
            generation: flags.generation.as_deref().map(str::parse).transpose()?,
        })
    }

    /// The era of this cluster: the one named, else the newest. `begin_after`: if there is none for so long, a new one.
    pub async fn replica(
        &self,
        facts: &BackupFacts,
        begin_after: Option<Duration>,
    ) -> Result<PostgresReplica, PlaceError> {
        let started = Instant::now();
        loop {
            if let Some(era) = &self.era {
                match self.archive.open(facts.system_id, era).await {
                    Err(error) if error.kind() == Kind::NotFound => {}
                    result => return Ok(result?),
                }
            } else {
                let eras: Vec<Era> =
                    self.archive.eras().await?.into_iter().filter(|era| era.system_id == facts.system_id).collect();
                let newest: Vec<&Era> = eras
                    .iter()
                    .filter(|era| !eras.iter().any(|later| later.previous.as_ref() == Some(&era.name)))
                    .collect();
                match newest[..] {
                    [] => {}
                    [only] => return Ok(self.archive.open(facts.system_id, &only.name).await?),
                    _ => {
                        let names: Vec<String> = newest.iter().map(|era| era.name.to_string()).collect();
                        return Err(PlaceError::SeveralEras(names.join(", ")));
                    }
                }
            }
            if begin_after.is_some_and(|patience| started.elapsed() >= patience) {
                return Ok(self.archive.claim(&self.new_era(facts)?).await?);
            }
            if started.elapsed() > ARCHIVER_BEGINS_WITHIN {
                return Err(PlaceError::NoEra);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// When the newest snapshot of any cluster in the archive was stored, by the store's clock.
    pub async fn newest_snapshot(&self) -> Result<Option<Timestamp>, PlaceError> {
        let mut newest = None;
        for era in self.archive.eras().await? {
            let replica = self.archive.open(era.system_id, &era.name).await?;
            for generation in replica.generations().await? {
                let created = replica.snapshots(generation).await?.into_iter().map(|snapshot| snapshot.created).max();
                newest = newest.max(created);
            }
        }
        Ok(newest)
    }

    fn new_era(&self, facts: &BackupFacts) -> Result<Era, PlaceError> {
        Ok(Era {
            system_id: facts.system_id,
            name: self.era.clone().map_or_else(|| EraName::parse(SOLO), Ok)?,
            segment_size: facts.segment_size,
            server_version: facts.version_num,
            cluster: String::new(),
            previous: None,
        })
    }

    /// The generation of the TLI the backup begins on. The first TLI that an archive sees is its root; a later one must have been seen
    /// by who archives its WAL, because its generation is named by its first record.
    pub async fn generation(&self, replica: &PostgresReplica, facts: &BackupFacts) -> Result<Generation, PlaceError> {
        if let Some(generation) = self.generation {
            return Ok(generation);
        }
        let tli = facts.begin.tli;
        let switch = facts
            .history
            .as_ref()
            .and_then(|history| History::parse(tli, history).ok())
            .and_then(|history| history.entries().last().map(|entry| entry.switch));
        let started = Instant::now();
        loop {
            let tree = replica.lineages().await?;
            if tree.is_empty() {
                let root = Generation::of_tli(0, tli);
                replica.put_parent(root, Parent::Root).await?;
                return Ok(root);
            }
            let of_tli: Vec<Generation> = tree.keys().filter(|generation| generation.tli() == tli).copied().collect();
            let left_there = |generation: &&Generation| matches!(tree.get(generation), Some(Some(Parent::Of { switch: at, .. })) if Some(*at) == switch);
            let matching: Vec<Generation> = of_tli.iter().filter(left_there).copied().collect();
            match (&of_tli[..], &matching[..]) {
                ([only], _) | (_, [only]) => return Ok(*only),
                ([], _) if started.elapsed() <= ARCHIVER_BEGINS_WITHIN => tokio::time::sleep(LOOK).await,
                ([], _) => return Err(PlaceError::NoGeneration(tli)),
                (several, _) => {
                    let list: Vec<String> = several.iter().map(ToString::to_string).collect();
                    return Err(PlaceError::SeveralGenerations { tli, list: list.join(", ") });
                }
            }
        }
    }
}
