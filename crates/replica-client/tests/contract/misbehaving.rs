//! What happens on a store that fails: how often is tried, what is reported, and that nothing wrong is delivered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use replica_client::{
    Codec, CommitTimes, Conditions, Error, Generation, Kind, PieceName, Replica, RetryPolicy, Store, StoreKind, Written,
};

use crate::faulty::{Faulty, Manners};
use crate::suite::{bytes, keys};

const G: Generation = Generation(1);

fn replica(faulty: &Faulty) -> Replica {
    Replica::sqlite(faulty.store(), Codec::plain())
}

#[tokio::test]
async fn a_failing_request_is_tried_again_and_then_reported() {
    let faulty = Faulty::new(Manners::default());
    let store = faulty.store();
    store.probe().await.unwrap();
    faulty.fail_next(3);
    store.put("key", Bytes::from_static(b"x")).await.unwrap();
    faulty.fail_next(4);
    let before = faulty.all_requests();
    let error = store.put("key", Bytes::from_static(b"y")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(error.to_string(), "cannot store key");
    assert_eq!(faulty.all_requests() - before, 4);
    assert_eq!(store.get("key", 1).await.unwrap(), "x");
    for what in ["get", "list", "delete", "head"] {
        faulty.fail_next(3);
        match what {
            "get" => drop(store.get("key", 1).await.unwrap()),
            "list" => assert_eq!(store.list("").await.unwrap().len(), 2),
            "delete" => drop(store.delete(vec!["nothing".to_owned()]).await.unwrap()),
            _ => assert!(store.head("key").await.unwrap().is_some()),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_deleted_is_named_and_the_rest_is_gone() {
    let faulty = Faulty::new(Manners::default());
    let store = faulty.store();
    let keys: Vec<String> = (0..30).map(|number| format!("k/{number:02}")).collect();
    for key in &keys {
        store.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    faulty.undeletable(Some("k/17"));
    let error = store.delete(keys.clone()).await.unwrap_err();
    assert!(matches!(&error, Error::Delete { failed: 1, key, .. } if key == "k/17"), "{error}");
    assert_eq!(store.list("k").await.unwrap().len(), 1);
    faulty.undeletable(None);
    store.delete(keys).await.unwrap();
    assert_eq!(store.list("k").await.unwrap(), []);
}

#[tokio::test]
async fn a_broken_read_goes_on_where_it_broke() {
    for silent in [false, true] {
        let faulty = Faulty::new(Manners { cut_after: Some(10_000), silent, ..Manners::default() });
        let replica = replica(&faulty);
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        let plain: Bytes = (0..300_000).map(|_| noise()).collect::<Vec<u8>>().into();
        replica.put_piece(G, PieceName::sqlite(0, 0), plain.clone(), CommitTimes::default()).await.unwrap();
        let before = faulty.requests("get");
        assert!(replica.read_piece(G, PieceName::sqlite(0, 0)).await.unwrap() == plain);
        // As many answers as it takes, no byte twice.
        let gets = faulty.requests("get") - before;
        assert!((30..=32).contains(&gets), "{gets} requests");
    }
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_an_error() {
    let faulty = Faulty::new(Manners { cut_after: Some(10), ..Manners::default() });
    let store = faulty.store();
    store.put("key", bytes(1, 100)).await.unwrap();
    // The cut makes the read go on later, with the object's tag as a condition; by then it is another one.
    let reading = tokio::spawn({
        let store = store.clone().with_retry(RetryPolicy {
            attempts: 3,
            first: Duration::from_millis(400),
            max: Duration::from_millis(400),
        });
        async move { store.get("key", 1000).await }
    });
    while faulty.requests("get") == 0 {
        tokio::task::yield_now().await;
    }
    store.put("key", bytes(2, 100)).await.unwrap();
    let error = reading.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[tokio::test]
async fn an_unconditional_store_is_recognised_and_nothing_is_replaced_in_it() {
    let faulty = Faulty::new(Manners { conditional: false, ..Manners::default() });
    let replica = replica(&faulty);
    assert_eq!(replica.store().probe().await.unwrap(), Conditions::Unconditional);
    assert_eq!(faulty.requests("put"), 2);
    replica.store().probe().await.unwrap();
    assert_eq!(faulty.requests("put"), 2, "asked once");
    let name = PieceName::sqlite(0, 0);
    replica.put_piece(G, name, bytes(1, 100), CommitTimes::default()).await.unwrap();
    let error = replica.put_piece(G, name, bytes(2, 100), CommitTimes::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Different);
    assert_eq!(replica.read_piece(G, name).await.unwrap(), bytes(1, 100));
    // A conditional one needs one request, when it was asked before.
    let polite = Faulty::new(Manners::default());
    assert_eq!(polite.store().probe().await.unwrap(), Conditions::Conditional);
    assert_eq!(polite.store().probe().await.unwrap(), Conditions::Conditional);
    assert_eq!(polite.requests("put"), 3);
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_no_foreign_object() {
    let faulty = Faulty::new(Manners { lost_answers: true, ..Manners::default() });
    let replica = replica(&faulty);
    let name = PieceName::sqlite(0, 0);
    let written = replica.put_piece(G, name, bytes(1, 100), CommitTimes::default()).await.unwrap();
    assert!(matches!(written, Written::Same(_)), "{written:?}");
}

#[tokio::test]
async fn facts_of_another_object_are_not_believed() {
    // The side object was written, the piece's put failed; later a longer piece is stored by somebody without facts.
    let (recipient, identity) = keys();
    let faulty = Faulty::new(Manners::default());
    let codec = Codec::new(&[&recipient], &[&identity]).unwrap();
    let replica = Replica::sqlite(faulty.store(), codec.clone());
    let name = PieceName::sqlite(0, 0);
    replica.put_piece(G, name, bytes(1, 1000), CommitTimes::default()).await.unwrap();
    let key = "generations/0000000000000001/wal/00000000_00000000.wal.lz4";
    replica.store().put(key, codec.encode(&bytes(1, 2000)).unwrap().into()).await.unwrap();
    assert_eq!(replica.piece_facts(G, name).await.unwrap(), None);
    replica.put_snapshot(G, 0, None, &b"db"[..]).await.unwrap();
    assert_eq!(replica.resume(G).await.unwrap().unwrap().offset, 2000);
}

#[tokio::test]
async fn steady_uploading_does_not_list() {
    for (conditional, each) in [(true, 1), (false, 2)] {
        let faulty = Faulty::new(Manners { conditional, ..Manners::default() });
        let replica = replica(&faulty);
        replica.store().probe().await.unwrap();
        let before = faulty.all_requests();
        for number in 0..10u8 {
            let name = PieceName::sqlite(0, u64::from(number) * 100);
            replica.put_piece(G, name, bytes(number, 100), CommitTimes::default()).await.unwrap();
        }
        assert_eq!(faulty.all_requests() - before, 10 * each);
        assert_eq!(faulty.requests("list"), 0);
    }
}

#[tokio::test]
async fn damage_in_a_stored_object_is_named() {
    let inner = Arc::new(InMemory::new());
    let store = Store::new(inner, StoreKind::Memory);
    let replica = Replica::sqlite(store.clone(), Codec::plain());
    let name = PieceName::sqlite(0, 0);
    replica.put_piece(G, name, bytes(1, 3000), CommitTimes::default()).await.unwrap();
    let key = "generations/0000000000000001/wal/00000000_00000000.wal.lz4";
    let whole = store.get(key, 1 << 20).await.unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.to_vec();
        damaged[at] ^= 0x10;
        for bad in [damaged, whole[..at].to_vec()] {
            store.put(key, bad.into()).await.unwrap();
            let error = replica.read_piece(G, name).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "byte {at}: {error}");
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
