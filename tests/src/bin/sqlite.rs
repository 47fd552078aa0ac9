//! SQLite under replication: the soak, the bench, what is too large for tests, and the writer both start.
//!
//! Standard output has one line a round or a measurement. The folder with all logs stays if something fails.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pg_harness::{Bin, Folder};
use scenarios::sqlite::fixture::{self, Fixture, Wal};
use scenarios::sqlite::measure::{self, Latencies, Replicating};
use scenarios::sqlite::{Rounds, Settings, reader, write_until_killed};

const USAGE: &str = "sqlite soak [--rounds N] [--seed N] [--parallel N] | sqlite large | sqlite bench [--databases N] [--idle SECONDS] | \
     sqlite writer PATH SEED";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // There is nowhere else to say that standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["writer", path, seed] => write_until_killed(Path::new(path), seed.parse()?),
        ["soak", flags @ ..] => soak(flags),
        ["large"] => large(),
        ["bench", flags @ ..] => bench(flags),
        _ => bail!("{USAGE}"),
    }
}

/// The value of a flag that is a number.
fn number(flags: &[&str], name: &str) -> Result<Option<u64>> {
    for pair in flags.chunks(2) {
        match pair {
            [flag, value] if *flag == name => {
                return Ok(Some(value.parse().with_context(|| format!("{value:?} is not a number"))?));
            }
            [flag, _] if flag.starts_with("--") => {}
            _ => bail!("{USAGE}"),
        }
    }
    Ok(None)
}

fn seawall() -> Result<PathBuf> {
    Ok(Bin::seawall()?.path().to_path_buf())
}

fn soak(flags: &[&str]) -> Result<()> {
    let rounds = number(flags, "--rounds")?.unwrap_or(100);
    let seed = number(flags, "--seed")?.unwrap_or_else(rand::random);
    let at_once = number(flags, "--parallel")?.unwrap_or(1).max(1);
    let mut out = std::io::stdout();
    writeln!(out, "{rounds} rounds with --seed {seed}")?;
    // A fresh database now and then: page sizes and encryption take turns.
    let parts = rounds.div_ceil(ROUNDS_OF_A_PART);
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || -> Result<()> {
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= parts || failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let count = ROUNDS_OF_A_PART.min(rounds - part * ROUNDS_OF_A_PART);
            if let Err(error) = soak_part(seed, part, count) {
                failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    writeln!(out, "{rounds} rounds, none wrong")?;
    Ok(())
}

/// Rounds on one database.
const ROUNDS_OF_A_PART: u64 = 25;

fn soak_part(seed: u64, part: u64, rounds: u64) -> Result<()> {
    let folder = Folder::new("sqlite_soak")?;
    let settings = Settings {
        seawall: seawall()?,
        writer: std::env::current_exe()?,
        seed: seed.wrapping_add(part),
        writers: 3,
        page_size: [4096, 512, 65536, 1024][part as usize % 4],
        encrypted: part % 2 == 1,
    };
    let mut running = Rounds::begin(&folder, settings)?;
    for _ in 0..rounds {
        match running.round() {
            Ok(round) => writeln!(std::io::stdout(), "database {part}, {round}")?,
            Err(error) => {
                folder.keep();
                return Err(error.context(running.said()));
            }
        }
    }
    running.end().map(drop).inspect_err(|_| {
        folder.keep();
    })
}

/// What is too large for every run of the tests: a life of the WAL beyond 4 GiB, and a database beyond 1 GiB.
fn large() -> Result<()> {
    let folder = Folder::new("sqlite_large")?;
    let mut out = std::io::stdout();
    let text = |path: &Path| path.display().to_string();
    let run = |words: &[&str]| -> Result<()> {
        let done = Command::new(seawall()?).args(words).output()?;
        ensure!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    };
    let (root, output) = (folder.path().join("long"), folder.path().join("long.db"));
    let mut fixture = Fixture::new(&root, None);
    let wanted = fixture.long_life("00000000000000cc", 1 << 32, &folder.path().join("scratch"), |_| ())?;
    let keys = reader::generations(&root)?;
    let beyond = keys.iter().flat_map(|keys| keys.pieces.keys()).filter(|(_, offset)| *offset > u64::from(u32::MAX));
    ensure!(beyond.count() == 1, "no piece begins above 4 GiB");
    run(&["restore", &text(&root), "-o", &text(&output), "--integrity-check", "full"])?;
    ensure!(std::fs::read(&output)? == wanted, "another database was restored");
    writeln!(out, "a life of more than 4 GiB is restored")?;
    std::fs::remove_dir_all(&root)?;

    let (database, root, output) =
        (folder.path().join("wide.db"), folder.path().join("wide"), folder.path().join("wide-restored.db"));
    let connection = fixture::beyond_the_lock_page(&database)?;
    run(&["replicate", &text(&database), &text(&root), "--once"])?;
    for _ in 0..2 {
        connection.execute("INSERT INTO t (data) VALUES (randomblob(60000))", [])?;
        run(&["replicate", &text(&database), &text(&root), "--once"])?;
    }
    run(&["restore", &text(&root), "-o", &text(&output), "--integrity-check", "full"])?;
    ensure!(std::fs::metadata(&output)?.len() > 1 << 30, "the database is too small");
    let sum = |path: &Path| -> Result<(i64, i64)> {
        let connection = rusqlite::Connection::open(path)?;
        Ok(connection.query_row(
            "SELECT count(*), sum(id * length(data)) + sum(unicode(hex(substr(data, 7, 1)))) FROM t",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    };
    ensure!(sum(&output)? == sum(&database)?, "other rows were restored");
    writeln!(out, "a database of more than 1 GiB, with rows on both sides of the lock page, is restored")?;
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn tell(out: &mut impl Write, what: &str, latencies: &Latencies) -> Result<()> {
    let [half, most, all] = [0.5, 0.99, 1.0].map(|share| millis(latencies.at(share)));
    writeln!(out, "{what}: {:.0} a second, p50 {half:.3} ms, p99 {most:.3} ms, slowest {all:.1} ms", latencies.rate())?;
    Ok(())
}

fn bench(flags: &[&str]) -> Result<()> {
    let databases = number(flags, "--databases")?.unwrap_or(1000);
    let idle = number(flags, "--idle")?.unwrap_or(20).max(1);
    let folder = Folder::new("sqlite_bench")?;
    bench_writers(&folder)?;
    bench_restore(&folder)?;
    bench_sizes(&folder)?;
    bench_many(&folder, databases, idle)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What a writer notices, and how far behind a replica is.
fn bench_writers(folder: &Folder) -> Result<()> {
    let mut out = std::io::stdout();
    let (seawall, log) = (seawall()?, folder.path().join("log"));
    let (path, replica) = (folder.path().join("a.db"), folder.path().join("replica-a"));
    let connection = measure::database(&path, 1 << 20)?;
    for writers in [1, 3] {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            without.push(measure::commits(&path, writers, 3.0)?);
            let running = Replicating::start(&seawall, &[&text(&path), &text(&replica)], &log)?;
            running.in_sync(1, Duration::from_secs(60))?;
            with.push(measure::commits(&path, writers, 3.0)?);
        }
        for (alone, beside) in without.iter().zip(&with) {
            tell(&mut out, &format!("{writers} writers without a replicator"), alone)?;
            tell(&mut out, &format!("{writers} writers with one"), beside)?;
        }
    }
    let running = Replicating::start(&seawall, &[&text(&path), &text(&replica)], &log)?;
    running.in_sync(1, Duration::from_secs(60))?;
    tell(&mut out, "commit to piece in the replica", &measure::lag(&connection, &replica, 30)?)
}

/// How fast one WAL is restored, cut into ever more pieces.
fn bench_restore(folder: &Folder) -> Result<()> {
    let mut out = std::io::stdout();
    let made = Wal::make(&folder.path().join("scratch"), 128 << 20)?;
    for pieces in [1, 16, 256, 4096] {
        let root = folder.path().join(format!("pieces-{pieces}"));
        let mut fixture = Fixture::new(&root, None);
        fixture.snapshot("00000000000000dd", 0, &made.snapshot)?;
        let count = fixture.cut("00000000000000dd", 0, &made.wal, pieces)?;
        for parallelism in ["1", "8"] {
            let output = folder.path().join("restored.db");
            let begun = std::time::Instant::now();
            let words = ["restore", &text(&root), "-o", &text(&output), "--parallelism", parallelism];
            let done = Command::new(seawall()?).args(words).output()?;
            let took = begun.elapsed();
            ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let rate = (made.snapshot.len() + made.wal.len()) as f64 / 1e6 / took.as_secs_f64();
            writeln!(out, "restore of {count} pieces, {parallelism} at a time: {rate:.0} MB of WAL a second")?;
            std::fs::remove_file(&output)?;
        }
        std::fs::remove_dir_all(&root)?;
    }
    Ok(())
}

/// Memory against the size of a database.
fn bench_sizes(folder: &Folder) -> Result<()> {
    let mut out = std::io::stdout();
    let (seawall, log) = (seawall()?, folder.path().join("log"));
    for megabytes in [1_u64, 64, 512] {
        let path = folder.path().join(format!("size-{megabytes}.db"));
        measure::database(&path, megabytes << 20)?;
        let replica = folder.path().join(format!("replica-{megabytes}"));
        let running = Replicating::start(&seawall, &[&text(&path), &text(&replica)], &log)?;
        running.in_sync(1, Duration::from_secs(300))?;
        let (now, most) = (running.rss()?, running.memory("VmHWM:")?);
        let (now, most) = (now as f64 / 1024.0, most as f64 / 1024.0);
        writeln!(out, "a database of {megabytes} MiB: {now:.1} MiB resident, {most:.1} at most")?;
        drop(running);
        std::fs::remove_dir_all(&replica)?;
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// What many idle databases cost.
fn bench_many(folder: &Folder, databases: u64, idle: u64) -> Result<()> {
    let mut out = std::io::stdout();
    let many = folder.sub("many")?;
    for number in 0..databases {
        let connection = measure::database(&many.join(format!("{number}.db")), 0)?;
        connection.execute("INSERT INTO t (data) VALUES (randomblob(1000))", [])?;
    }
    let config = folder.path().join("seawall.toml");
    let replica = folder.path().join("replica-many");
    let toml = format!("[[sqlite]]\ndir = {:?}\nreplicas = [{:?}]\n", text(&many), text(&replica));
    std::fs::write(&config, toml)?;
    let running = Replicating::start(&seawall()?, &["--config", &text(&config)], &folder.path().join("log"))?;
    running.in_sync(databases as usize, Duration::from_secs(600))?;
    // What the start began has ended: the first look for what can go comes within half a minute, the first checkpoint within one.
    sleep(Duration::from_secs(100));
    let requests = "seawall_replica_operations_total";
    let (ticks, asked) = (running.ticks()?, running.counter(requests));
    sleep(Duration::from_secs(idle));
    let (ticks, asked) = (running.ticks()? - ticks, running.counter(requests) - asked);
    writeln!(
        out,
        "{databases} idle databases: {:.1} MiB resident ({:.1} at most), {:.2} descriptors each, {:.2} % of a processor, {asked} requests in \
         {idle} s",
        running.rss()? as f64 / 1024.0,
        running.memory("VmHWM:")? as f64 / 1024.0,
        running.descriptors()? as f64 / databases.max(1) as f64,
        ticks as f64 / idle as f64
    )?;
    ensure!(asked == 0.0, "idle databases made requests");
    Ok(())
}
