//! What a replica promises, on stores without a server, on real S3 servers, and on stores that misbehave.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod faulty;
mod misbehaving;
mod servers;
mod suite;
mod weather;

use replica_client::{Destination, Store};

#[tokio::test]
async fn memory() {
    suite::all(Store::memory).await;
}

#[tokio::test]
async fn directory() {
    let folder = tempfile::tempdir().unwrap();
    let mut number = 0;
    suite::all(|| {
        number += 1;
        let place = folder.path().join(format!("replica {number}"));
        Destination::parse(place.to_str().unwrap()).unwrap().below("deep/er").open().unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_store_that_ignores_create_only() {
    suite::all(|| faulty::Faulty::new(faulty::Manners { conditional: false, ..Default::default() }).store()).await;
}

#[tokio::test]
async fn a_store_that_lists_in_disorder_breaks_reads_and_loses_answers() {
    let manners =
        faulty::Manners { shuffled: true, cut_after: Some(200_000), lost_answers: true, ..Default::default() };
    suite::all(|| faulty::Faulty::new(manners).store()).await;
}
