//! Stores that are shared: many replicas in one bucket need one client, one pool of connections, and one probe.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Destination;
use crate::error::Error;
use crate::store::Store;

/// The stores of a process, one for each bucket or directory and its options.
#[derive(Default)]
pub struct Stores(Mutex<Vec<(Destination, Store)>>);

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// As [`Destination::open`]; destinations that differ by nothing but their path share what is below.
    pub fn open(&self, destination: &Destination) -> Result<Store, Error> {
        let whole = Destination { path: String::new(), ..destination.clone() };
        let mut stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, store)) = stores.iter().find(|(there, _)| *there == whole) {
            return Ok(store.at(&destination.path));
        }
        let store = destination.open()?;
        stores.push((whole, store.clone()));
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn one_store_for_all_folders_of_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::parse(&dir.path().display().to_string()).unwrap();
        let stores = Stores::default();
        let open = |path: &str| stores.open(&destination.below(path)).unwrap();
        let (one, two, whole) = (open("a"), open("b/c"), stores.open(&destination).unwrap());
        one.put("x", Bytes::from_static(b"1")).await.unwrap();
        two.put("x", Bytes::from_static(b"2")).await.unwrap();
        assert_eq!(std::fs::read(dir.path().join("a/x")).unwrap(), b"1");
        assert_eq!(std::fs::read(dir.path().join("b/c/x")).unwrap(), b"2");
        assert_eq!(whole.list("").await.unwrap().len(), 2);
        assert_eq!(stores.0.lock().unwrap().len(), 1);
        let other = tempfile::tempdir().unwrap();
        stores.open(&Destination::parse(&other.path().display().to_string()).unwrap()).unwrap();
        assert_eq!(stores.0.lock().unwrap().len(), 2);
    }
}
