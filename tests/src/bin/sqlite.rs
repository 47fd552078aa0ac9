//! SQLite under replication: the soak, the bench, and the writer both start.
//!
//! Standard output has one line a round or a measurement. The folder with all logs stays if something fails.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pg_harness::{Bin, Folder};
use scenarios::sqlite::measure::{self, Latencies, Replicating};
use scenarios::sqlite::{Rounds, Settings, write_until_killed};

const USAGE: &str = "sqlite soak [--rounds N] [--seed N] | sqlite bench [--databases N] | sqlite writer PATH SEED";

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
    let mut out = std::io::stdout();
    writeln!(out, "{rounds} rounds with --seed {seed}")?;
    // A fresh database now and then: page sizes and encryption take turns.
    let (mut done, mut part) = (0, 0);
    while done < rounds {
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
        for _ in 0..25.min(rounds - done) {
            match running.round() {
                Ok(round) => writeln!(out, "{round}")?,
                Err(error) => {
                    folder.keep();
                    return Err(error.context(running.said()));
                }
            }
            done += 1;
        }
        if let Err(error) = running.end() {
            folder.keep();
            return Err(error);
        }
        part += 1;
    }
    writeln!(out, "{done} rounds, none wrong")?;
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
    let mut out = std::io::stdout();
    let folder = Folder::new("sqlite_bench")?;
    let (seawall, log) = (seawall()?, folder.path().join("log"));
    let text = |path: &Path| path.display().to_string();

    let (path, replica) = (folder.path().join("a.db"), folder.path().join("replica-a"));
    let connection = measure::database(&path, 1 << 20)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        without.push(measure::commits(&connection, 3.0)?);
        let running = Replicating::start(&seawall, &[&text(&path), &text(&replica)], &log)?;
        running.in_sync(1, Duration::from_secs(60))?;
        with.push(measure::commits(&connection, 3.0)?);
    }
    for (alone, beside) in without.iter().zip(&with) {
        tell(&mut out, "commits without a replicator", alone)?;
        tell(&mut out, "commits with one", beside)?;
    }
    let running = Replicating::start(&seawall, &[&text(&path), &text(&replica)], &log)?;
    running.in_sync(1, Duration::from_secs(60))?;
    tell(&mut out, "commit to piece in the replica", &measure::lag(&connection, &replica, 30)?)?;
    drop(running);

    for megabytes in [1_u64, 64, 512] {
        let path = folder.path().join(format!("size-{megabytes}.db"));
        measure::database(&path, megabytes << 20)?;
        let replica = folder.path().join(format!("replica-{megabytes}"));
        let running = Replicating::start(&seawall, &[&text(&path), &text(&replica)], &log)?;
        running.in_sync(1, Duration::from_secs(300))?;
        writeln!(out, "a database of {megabytes} MiB: {:.1} MiB resident", running.rss()? as f64 / 1024.0)?;
        drop(running);
        std::fs::remove_dir_all(&replica)?;
        std::fs::remove_file(&path)?;
    }

    let many = folder.sub("many")?;
    for number in 0..databases {
        let connection = measure::database(&many.join(format!("{number}.db")), 0)?;
        connection.execute("INSERT INTO t (data) VALUES (randomblob(1000))", [])?;
    }
    let config = folder.path().join("seawall.toml");
    let replica = folder.path().join("replica-many");
    let toml = format!("[[sqlite]]\ndir = {:?}\nreplicas = [{:?}]\n", text(&many), text(&replica));
    std::fs::write(&config, toml)?;
    let running = Replicating::start(&seawall, &["--config", &text(&config)], &log)?;
    running.in_sync(databases as usize, Duration::from_secs(600))?;
    // What the start began has ended.
    sleep(Duration::from_secs(5));
    let requests = "seawall_replica_operations_total";
    let (ticks, asked) = (running.ticks()?, running.counter(requests));
    sleep(Duration::from_secs(20));
    let (ticks, asked) = (running.ticks()? - ticks, running.counter(requests) - asked);
    writeln!(
        out,
        "{databases} idle databases: {:.1} MiB resident, {:.2} descriptors each, {:.2} % of a processor, {asked} requests in 20 s",
        running.rss()? as f64 / 1024.0,
        running.descriptors()? as f64 / databases.max(1) as f64,
        ticks as f64 / 20.0
    )?;
    ensure!(asked == 0.0, "idle databases made requests");
    drop(running);
    let size = Command::new("du").arg("-sh").arg(&replica).output()?;
    writeln!(out, "their replicas: {}", String::from_utf8_lossy(&size.stdout).trim())?;
    Ok(())
}
