//! From a URL to a replica: which kind it is, which era, and with which secrets its objects are read.

use config::ReplicaFlags;
use replica_client::{
    Archive, Codec, CodecError, Destination, DestinationError, EraName, Kind, PostgresReplica, Replica,
};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A file with identities has a line for each; more than this is another file.
const IDENTITIES_MAX: u64 = 1 << 20;

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The store.
    #[error(transparent)]
    Replica(#[from] replica_client::Error),
    /// A file with identities.
    #[error("cannot read the identities in {}: {source}", path.display())]
    Identities {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Text that is no identity.
    #[error("an identity cannot be used: {0}")]
    Codec(#[from] CodecError),
    /// Nothing is there.
    #[error("there is no replica at {0}")]
    Nothing(String),
    /// An era without its cluster, or one that cannot be.
    #[error("{0}")]
    Era(String),
    /// The other kind.
    #[error("{url} is a replica of {found}, not of {wanted}")]
    OtherKind {
        /// Where.
        url: String,
        /// What it is.
        found: &'static str,
        /// What was wanted.
        wanted: &'static str,
    },
}

impl OpenError {
    /// Whether the command was given in a way that cannot work.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            OpenError::Destination(_) | OpenError::Era(_) | OpenError::Codec(_) | OpenError::OtherKind { .. }
        )
    }

    /// Whether the place can be asked and holds nothing yet.
    pub fn is_nothing(&self) -> bool {
        matches!(self, OpenError::Nothing(_))
    }

    /// Whether asking again later may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, OpenError::Replica(error) if error.kind() == Kind::Unavailable)
    }
}

/// A replica of either kind.
#[derive(Clone)]
pub(crate) enum Opened {
    /// One era of an archive.
    Postgres(Box<PostgresReplica>),
    /// A database file's.
    Sqlite(Replica),
}

/// Reads the identities of the files: lines that begin with AGE-SECRET-KEY-; empty ones and comments are passed over.
pub(crate) fn codec(files: &[PathBuf]) -> Result<Codec, OpenError> {
    let mut identities: Vec<String> = Vec::new();
    for path in files {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(IDENTITIES_MAX).read_to_string(&mut text));
        read.map_err(|source| OpenError::Identities { path: path.clone(), source })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        identities.extend(lines.map(str::to_owned));
    }
    Ok(Codec::new::<&str, String>(&[], &identities)?)
}

/// Opens whatever is at a URL.
pub(crate) async fn open(url: &str, flags: &ReplicaFlags) -> Result<Opened, OpenError> {
    let store = Destination::parse(url)?.open()?;
    let codec = codec(&flags.identity)?;
    match postgres_of(&Archive::new(store.clone(), codec.clone()), flags).await {
        Ok(Some(replica)) => return Ok(Opened::Postgres(Box::new(replica))),
        Ok(None) => {}
        Err(error) => return Err(error),
    }
    let replica = Replica::sqlite(store, codec);
    match replica.generations().await?.is_empty() {
        true => Err(OpenError::Nothing(url.to_owned())),
        false => Ok(Opened::Sqlite(replica)),
    }
}

/// Opens an archive of PostgreSQL.
pub(crate) async fn postgres(url: &str, flags: &ReplicaFlags) -> Result<PostgresReplica, OpenError> {
    match open(url, flags).await? {
        Opened::Postgres(replica) => Ok(*replica),
        Opened::Sqlite(_) => Err(OpenError::OtherKind {
            url: url.to_owned(),
            found: "a SQLite database",
            wanted: "a PostgreSQL cluster",
        }),
    }
}

async fn postgres_of(archive: &Archive, flags: &ReplicaFlags) -> Result<Option<PostgresReplica>, OpenError> {
    if let (Some(system), Some(era)) = (flags.system_id, &flags.era) {
        let era = EraName::parse(era).map_err(|error| OpenError::Era(error.to_string()))?;
        return Ok(Some(archive.open(system, &era).await?));
    }
    let mut eras = archive.eras().await?;
    if eras.is_empty() {
        return Ok(None);
    }
    eras.retain(|era| flags.system_id.is_none_or(|id| id == era.system_id));
    eras.retain(|era| flags.era.as_ref().is_none_or(|name| *name == era.name.to_string()));
    match eras.as_slice() {
        [] => {
            Err(OpenError::Era("the archive holds no such cluster or era; `seawall generations` lists them".to_owned()))
        }
        [only] => Ok(Some(archive.open(only.system_id, &only.name).await?)),
        _ if flags.system_id.is_none() && flags.era.is_none() => Ok(Some(archive.only().await?)),
        // The newest is the one that no other follows.
        several => {
            let followed =
                |era: &&replica_client::Era| !several.iter().any(|later| later.previous.as_ref() == Some(&era.name));
            let newest: Vec<_> = several.iter().filter(followed).collect();
            match newest[..] {
                [newest] => Ok(Some(archive.open(newest.system_id, &newest.name).await?)),
                _ => {
                    let names: Vec<String> =
                        several.iter().map(|era| format!("{}/{}", era.system_id, era.name)).collect();
                    let what =
                        format!("the archive holds several ({}); choose with --system-id and --era", names.join(", "));
                    Err(OpenError::Era(what))
                }
            }
        }
    }
}

/// A path that means the same from every directory, for `restore_command`. URLs stay as they are.
pub(super) fn absolute_url(url: &str) -> String {
    if url.contains("://") {
        return url.to_owned();
    }
    std::path::absolute(Path::new(url)).map_or_else(|_| url.to_owned(), |path| path.to_string_lossy().into_owned())
}
