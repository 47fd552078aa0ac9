//! The suite against real S3 servers, and bad weather on the wire before one.

use std::time::Duration;

use anyhow::Result;
use pg_harness::{Fault, FaultProxy, Garage, Moto, S3Access, scenario};
use replica_client::{
    Codec, CommitTimes, Conditions, Destination, Generation, Kind, PieceName, Replica, RetryPolicy, SnapshotWritten,
    Store,
};

use crate::suite;

const WITHIN: Duration = Duration::from_secs(170);

fn open(access: &S3Access, prefix: &str) -> Store {
    let url = format!("{}?endpoint={}&region={}", access.url(prefix), access.endpoint(), access.region);
    let keys = [("access-key-id", &access.access_key_id), ("secret-access-key", &access.secret_access_key)];
    let options = keys.map(|(name, value)| (name.to_owned(), value.clone()));
    Destination::parse(&url).unwrap().with_options(options).unwrap().open().unwrap()
}

async fn run_suite(access: &S3Access) {
    let mut number = 0;
    suite::all(|| {
        number += 1;
        open(access, &format!("suite/{number}"))
    })
    .await;
}

#[test]
fn garage() {
    scenario("replica-garage", WITHIN, |folder| async move {
        let garage = Garage::start(&folder).await?;
        run_suite(garage.access()).await;
        Ok(())
    });
}

#[test]
fn moto_honours_create_only() {
    scenario("replica-moto", WITHIN, |folder| async move {
        let moto = Moto::start(&folder).await?;
        assert_eq!(open(moto.access(), "probe").probe().await?, Conditions::Conditional);
        run_suite(moto.access()).await;
        Ok(())
    });
}

#[test]
fn bad_weather_on_the_wire() {
    scenario("replica-weather", WITHIN, |folder| async move {
        let garage = Garage::start(&folder).await?;
        let proxy = FaultProxy::to(garage.access().addr).await?;
        let patient = RetryPolicy { attempts: 12, first: Duration::from_millis(5), max: Duration::from_millis(50) };
        let store = open(&garage.access().through(proxy.addr()), "weather").with_retry(patient);
        let replica = Replica::sqlite(store, Codec::plain());
        replica.store().probe().await?;
        // Every third request fails in one of the ways a wire has.
        proxy.plan(|request| match (request.number % 3, request.number % 5) {
            (0, 0) => Fault::Refuse,
            (0, 1) => Fault::Status(503),
            (0, 2) => Fault::CutRequest(1000),
            (0, 3) => Fault::LoseAnswer,
            (0, _) => Fault::Status(429),
            _ if request.method == "GET" => Fault::CutAnswer(300_000),
            _ => Fault::None,
        });
        let generation = Generation(1);
        let mut state = 7u32;
        let mut noise = |length: usize| -> Vec<u8> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..length).map(|_| next()).collect()
        };
        let pieces: Vec<bytes::Bytes> = (0..8).map(|number| noise(1000 + number * 100_000).into()).collect();
        for (index, plain) in pieces.iter().enumerate() {
            let name = PieceName::sqlite(index as u64, 0);
            replica.put_piece(generation, name, plain.clone(), CommitTimes::default()).await?;
        }
        for (index, plain) in pieces.iter().enumerate() {
            let read = replica.read_piece(generation, PieceName::sqlite(index as u64, 0)).await?;
            assert!(read == *plain, "piece {index}");
        }
        assert_eq!(replica.pieces(generation, 0..=100).await?.len(), 8);
        assert!(proxy.requests().iter().any(|request| request.range.is_some()), "no read went on where it broke");
        // Parts of a large object, with the same weather.
        let large = noise(9 << 20);
        let written = replica.put_snapshot(generation, 0, None, &large[..]).await?;
        assert!(matches!(written, SnapshotWritten::New(_)));
        proxy.all(Fault::None);
        assert!(replica.open_snapshot(generation, 0)?.read_all(1 << 30).await? == large);
        // Away: said within the patience, and nothing is wrong when it is back.
        proxy.away();
        let hasty = Replica::sqlite(replica.store().clone().with_retry(RetryPolicy::none()), Codec::plain());
        assert_eq!(hasty.generations().await.unwrap_err().kind(), Kind::Unavailable);
        proxy.all(Fault::None);
        assert_eq!(hasty.generations().await?, [generation]);
        Result::Ok(())
    });
}
