//! A replica made from a real database as a replicator would: every commit a piece, every checkpoint a new life.

use std::path::Path;

use replica_client::{Generation, PieceName, Replica};
use rusqlite::Connection;
use sqlite_wal::{Chain, Header};

/// What the database held at a place of the log.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) index: u64,
    pub(crate) offset: u64,
    pub(crate) dump: String,
}

pub(crate) struct Made {
    /// After every piece.
    pub(crate) states: Vec<State>,
    /// Behind the last frame.
    pub(crate) chain: Chain,
    /// The key of the first piece the newest snapshot needs.
    pub(crate) first_needed: String,
}

pub(crate) fn open(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

/// Tables with a row that one commit changes and no other: what is missing of a log stays missing.
const MARKS: u64 = 12;

/// Everything in it, as text.
pub(crate) fn dump(database: &Connection) -> String {
    let mark = |number| {
        let sql = format!("SELECT hex(substr(body, 1, 8)) FROM mark{number}");
        database.query_row(&sql, [], |row| row.get::<_, String>(0)).unwrap() + "\n"
    };
    let marks: String = (0..MARKS).map(mark).collect();
    let mut statement =
        database.prepare("SELECT id, length(body), hex(substr(body, 1, 8)) FROM t ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| {
        Ok(format!("{} {} {}\n", row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
    });
    marks + &rows.unwrap().map(Result::unwrap).collect::<String>()
}

/// Makes `lives` lives of `commits` pieces each; snapshots at lives 0 and 1.
pub(crate) async fn make(replica: &Replica, generation: Generation, page_size: u32, lives: u64, commits: u64) -> Made {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let wal_path = folder.path().join("app.db-wal");
    let database = open(&path);
    database
        .execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB); INSERT INTO t VALUES (0, x'00');"
        ))
        .unwrap();
    for number in 0..MARKS {
        database
            .execute_batch(&format!(
                "CREATE TABLE mark{number} (body); INSERT INTO mark{number} VALUES (randomblob(400));"
            ))
            .unwrap();
    }
    // Dropped half-way, so that the database becomes smaller.
    let shrinks = page_size > 512;
    if shrinks {
        database.execute_batch("CREATE TABLE bulk (body); INSERT INTO bulk VALUES (zeroblob(300000));").unwrap();
    }
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
    let mut states = Vec::new();
    let mut chain = None;
    let mut number = i64::from(page_size) + generation.0 as i64 % 7;
    for index in 0..lives {
        if index < 2 {
            let plain = std::fs::read(&path).unwrap();
            replica.put_snapshot(generation, index, Some(plain.len() as u64), &plain[..]).await.unwrap();
        }
        let mut offset = 0;
        for commit in 0..commits {
            let size = 300 * (1 + (number % 11));
            number += 1;
            let id = number % 17;
            database
                .execute_batch(&format!(
                    "BEGIN; INSERT INTO t VALUES ({}, randomblob({size}));
                     UPDATE mark{} SET body = randomblob(400);
                     UPDATE t SET body = randomblob({size}) WHERE id = {id}; DELETE FROM t WHERE id % 5 = {};
                     COMMIT; {}",
                    1000 + number,
                    (index * commits + commit) % MARKS,
                    (number + 1) % 5,
                    if commit == 1 && index == 2 && shrinks { "DROP TABLE bulk; VACUUM;" } else { "" }
                ))
                .unwrap();
            let wal = std::fs::read(&wal_path).unwrap();
            let header = Header::parse(wal[..32].try_into().unwrap()).unwrap();
            let mut walk = Chain::new(header);
            for frame in wal[32..].chunks_exact(header.page_size.frame_len()) {
                walk.next(frame).unwrap();
            }
            assert_eq!(walk.committed(), wal.len() as u64);
            let piece = wal[offset as usize..].to_vec();
            replica
                .put_piece(generation, PieceName::sqlite(index, offset), piece.into(), Default::default())
                .await
                .unwrap();
            offset = wal.len() as u64;
            chain = Some(walk);
            states.push(State { index, offset, dump: dump(&database) });
            // Moments a millisecond apart can be told from each other by the store's clock.
            let now = jiff::Timestamp::now().as_millisecond();
            while jiff::Timestamp::now().as_millisecond() <= now {
                tokio::task::yield_now().await;
            }
        }
        database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
    }
    let first_needed = format!("generations/{generation}/wal/{:08x}_", lives.min(2) - 1);
    Made { states, chain: chain.unwrap(), first_needed }
}
