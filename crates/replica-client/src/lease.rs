//! One holder at a time, by create-only puts alone.
//!
//! A lease is a chain of objects `lease/<number, 16 hex>.json`, each made once. The highest says who holds it, and for how
//! long it promises to be renewed. Renewing, taking over and releasing all make the next object; of two that try, the store
//! lets one. A number that was made and is not the highest when looked up again after is no lease.
//!
//! No wall clock decides: another's lease is taken over only after its object stood unchanged for its whole time on the
//! *monotonic* clock of the one who waits. A holder stops trusting its own a third of the time earlier.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::Error;
use crate::names::hex;
use crate::replica::Replica;
use crate::seal::{from_sealed, to_sealed};
use crate::store::{Conditions, Presence};

const FOLDER: &str = "lease";
const MAX_LEASE: u64 = 4096;
/// How long a lease may be; what an object says beyond that is taken for this.
const MAX_TTL: Duration = Duration::from_secs(3600);
/// How often one who waits looks.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseObject {
    version: u32,
    holder: String,
    /// Another for each object, so that one's own put whose answer was lost is not taken for somebody else's.
    nonce: u64,
    ttl_ms: u64,
    released: bool,
}

/// A lease that is held, as far as one can know.
#[derive(Debug)]
pub struct Lease {
    replica: Replica,
    holder: String,
    ttl: Duration,
    number: u64,
    renewed: Instant,
}

impl Replica {
    /// Gets the lease for `holder` (a name nobody else uses), promising to renew it well within `ttl` (at most an hour). While
    /// another holds it this waits, at most `wait`; then [`Error::Busy`]. On a store that ignores create-only puts it is
    /// [`Error::Unconditional`].
    pub async fn acquire_lease(&self, holder: &str, ttl: Duration, wait: Duration) -> Result<Lease, Error> {
        if self.store().probe().await? == Conditions::Unconditional {
            return Err(Error::Unconditional);
        }
        if ttl.is_zero() || ttl > MAX_TTL || holder.is_empty() || holder.len() > 200 {
            return Err(Error::Usage(
                "a lease has a holder and lasts more than nothing and at most an hour".to_owned(),
            ));
        }
        let begun = Instant::now();
        let mut seen: Option<(u64, Instant)> = None;
        loop {
            let highest = self.highest_lease().await?;
            let mut busy = None;
            if let Some(number) = highest
                && let Some(object) = self.read_lease(number).await?
            {
                let since = match seen {
                    Some((same, since)) if same == number => since,
                    _ => seen.insert((number, Instant::now())).1,
                };
                let theirs = Duration::from_millis(object.ttl_ms).min(MAX_TTL);
                if !object.released && since.elapsed() < theirs {
                    busy = Some((object.holder, theirs.saturating_sub(since.elapsed())));
                }
            }
            match busy {
                None => {
                    let number = highest.map_or(1, |highest| highest.saturating_add(1));
                    if let Some(renewed) = self.make_lease(number, holder, ttl, false).await? {
                        return Ok(Lease { replica: self.clone(), holder: holder.to_owned(), ttl, number, renewed });
                    }
                    // Somebody was faster; they are waited for like any holder.
                    if begun.elapsed() >= wait {
                        return Err(Error::Busy { holder: "another who asked at the same time".to_owned() });
                    }
                }
                Some((holder, left)) => {
                    let patience = wait.saturating_sub(begun.elapsed());
                    if patience.is_zero() {
                        return Err(Error::Busy { holder });
                    }
                    tokio::time::sleep(left.min(LOOK).min(patience)).await;
                }
            }
        }
    }

    fn lease_folder(&self) -> String {
        self.layout().control(FOLDER)
    }

    fn lease_key(&self, number: u64) -> String {
        format!("{}/{number:016x}.json", self.lease_folder())
    }

    async fn lease_numbers(&self) -> Result<Vec<u64>, Error> {
        let folder = self.lease_folder();
        let objects = self.store().list(&folder).await?;
        let number = |key: &str| hex(key.strip_prefix(&folder)?.strip_prefix('/')?.strip_suffix(".json")?, 16..=16);
        Ok(objects.iter().filter_map(|object| number(&object.key)).collect())
    }

    async fn highest_lease(&self) -> Result<Option<u64>, Error> {
        Ok(self.lease_numbers().await?.into_iter().max())
    }

    /// `None`: deleted since it was listed, so there is a newer one.
    async fn read_lease(&self, number: u64) -> Result<Option<LeaseObject>, Error> {
        let key = self.lease_key(number);
        let text = match self.store().get(&key, MAX_LEASE).await {
            Ok(text) => text,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        from_sealed(&key, "lease", &text).map(Some)
    }

    /// Makes the object of this number; says since when it may be trusted, or `None` if somebody else has the lease.
    async fn make_lease(
        &self,
        number: u64,
        holder: &str,
        ttl: Duration,
        released: bool,
    ) -> Result<Option<Instant>, Error> {
        let before = Instant::now();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let object = LeaseObject { version: 1, holder: holder.to_owned(), nonce: rand::random(), ttl_ms, released };
        let text: Bytes = to_sealed(&object)?;
        let presence = self.store().put_if_absent(&self.lease_key(number), text, Default::default()).await?;
        if presence == Presence::Present && self.read_lease(number).await?.as_ref() != Some(&object) {
            return Ok(None);
        }
        let numbers = self.lease_numbers().await?;
        if numbers.iter().max() != Some(&number) {
            return Ok(None);
        }
        let old: Vec<String> = numbers.into_iter().filter(|old| *old < number).map(|old| self.lease_key(old)).collect();
        if let Err(error) = self.store().delete(old).await {
            tracing::debug!(%error, "old objects of the lease stay");
        }
        Ok(Some(before))
    }
}

impl Lease {
    /// Renews it; [`Error::Busy`] when somebody else has it by now: stop.
    pub async fn renew(&mut self) -> Result<(), Error> {
        let number = self.number.saturating_add(1);
        match self.replica.make_lease(number, &self.holder, self.ttl, false).await? {
            Some(renewed) => {
                (self.number, self.renewed) = (number, renewed);
                Ok(())
            }
            None => Err(Error::Busy { holder: "somebody else, who took it over".to_owned() }),
        }
    }

    /// Whether nobody can have taken it over yet: two thirds of its time since the last renewal began. Ask right before each
    /// thing that only the holder may do.
    pub fn still_held(&self) -> bool {
        self.renewed.elapsed() < self.ttl.mul_f64(2.0 / 3.0)
    }

    /// Gives it up, so that the next need not wait.
    pub async fn release(self) -> Result<(), Error> {
        let number = self.number.saturating_add(1);
        self.replica.make_lease(number, &self.holder, self.ttl, true).await.map(drop)
    }
}
