//! What a commit costs, side by side in one run on one machine: a primary alone, the same primary with three synchronous
//! `pg_receivewal` of which two must have the WAL, and with Seawall's proposer and three safekeepers.
//!
//! `archive` and `restore` do the same for archiving and restoring, beside pgBackRest.
//!
//! Each contender has a server of its own with the same settings on the same disk; servers that are not measured are idle. Short slots
//! alternate between the contenders, so that whatever else the machine does meets all of them; medians and ratios are what counts.

mod archiving;
mod contender;
mod pgbackrest;
mod processes;
mod report;
mod restoring;
mod usage;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pg_harness::Folder;

use contender::Contender;
use report::{Load, Report, Sample};
use usage::Usage;

/// Rows of 100000 that pgbench's tables have.
const SCALE: u32 = 10;
const CLIENTS: [u32; 3] = [1, 8, 32];
/// Bytes of WAL of one bulk load, roughly.
const BULK_BYTES: u64 = 200_000_000;
/// WAL of one row of the bulk load, roughly.
const BULK_ROW_BYTES: u64 = 300;
const LOAD_WITHIN: Duration = Duration::from_secs(600);

/// What is asked for.
struct Options {
    rounds: u32,
    seconds: u32,
    markdown: bool,
    clients: Vec<u32>,
    bulk: bool,
}

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

fn parse() -> Result<Options> {
    let mut options = Options { rounds: 5, seconds: 5, markdown: false, clients: CLIENTS.to_vec(), bulk: true };
    let mut args = std::env::args().skip(2);
    while let Some(flag) = args.next() {
        let mut number = || -> Result<u32> {
            let value = args.next().with_context(|| format!("{flag} needs a number"))?;
            value.parse().with_context(|| format!("{value:?} is not a number"))
        };
        match flag.as_str() {
            "--markdown" => options.markdown = true,
            "--rounds" => options.rounds = number()?.max(1),
            "--seconds" => options.seconds = number()?.max(1),
            "--clients" => options.clients = vec![number()?.max(1)],
            "--no-bulk" => options.bulk = false,
            _ => bail!(
                "{flag} is unknown; there are --markdown, --rounds N, --seconds N (of a slot), --clients N and --no-bulk"
            ),
        }
    }
    Ok(options)
}

/// The value of a flag that is a number, or what is usual.
fn number(name: &str, usual: u64) -> Result<u64> {
    let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
    match args.next() {
        Some(value) => value.parse().with_context(|| format!("{name} needs a number")),
        None => Ok(usual),
    }
}

fn run() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("commit") => commit(),
        Some("archive") => {
            let megabytes = number("--wal-mb", 1000)?;
            beside_pgbackrest("archive", async |folder| archiving::run(folder, megabytes).await)
        }
        Some("restore") => {
            let size = restoring::Size {
                data_mb: number("--data-mb", 2000)?,
                wal_mb: number("--wal-mb", 2000)?,
                processes: u32::try_from(number("--processes", 2)?)?.max(1),
                rounds: u32::try_from(number("--rounds", 3)?)?.max(1),
            };
            beside_pgbackrest("restore", async |folder| restoring::run(folder, &size).await)
        }
        _ => bail!("name what to measure: commit, archive or restore"),
    }
}

/// A measurement that needs the daemons of others as our children.
fn beside_pgbackrest(
    name: &str,
    measure: impl AsyncFnOnce(&Folder) -> Result<(String, serde_json::Value)>,
) -> Result<()> {
    processes::take_orphans_in()?;
    let folder = Folder::new("bench")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(measure(&folder));
    if outcome.is_err() {
        folder.keep();
    }
    let (table, all) = outcome?;
    let path = write_json(name, &all)?;
    writeln!(std::io::stdout(), "{table}")?;
    writeln!(std::io::stderr(), "all of it is in {}", path.display())?;
    Ok(())
}

fn commit() -> Result<()> {
    let options = parse()?;
    let folder = Folder::new("bench")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(measure(&folder, &options));
    if outcome.is_err() {
        folder.keep();
    }
    let report = outcome?;
    let path = write_json("commit", &report.json())?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", if options.markdown { report.markdown() } else { report.table() })?;
    writeln!(std::io::stderr(), "all of it is in {}", path.display())?;
    Ok(())
}

fn write_json(name: &str, all: &serde_json::Value) -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    let dir = target.join("bench");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(all)?)?;
    Ok(path)
}

async fn measure(folder: &Folder, options: &Options) -> Result<Report> {
    let mut log = std::io::stderr();
    let mut contenders = Contender::all(folder).await?;
    for contender in &contenders {
        writeln!(log, "{}: filling pgbench's tables", contender.name())?;
        contender.fill(folder, SCALE).await?;
    }
    let mut report = Report::new(contenders[0].server_version().await?, options.rounds, options.seconds);
    let mut loads: Vec<Load> = options.clients.iter().map(|clients| Load::Pgbench { clients: *clients }).collect();
    if options.bulk {
        loads.push(Load::Bulk);
    }
    for round in 0..options.rounds {
        for load in &loads {
            // Another one begins each time.
            contenders.rotate_left(1);
            for contender in &contenders {
                let sample = slot(folder, contender, *load, options.seconds, round).await?;
                writeln!(log, "round {}, {load}, {}: {:.0} {}", round + 1, contender.name(), sample.rate, load.unit())?;
                report.samples.push(sample);
            }
        }
    }
    for contender in &contenders {
        report.memory.insert(contender.name(), usage::memory(&contender.processes().await?)?);
    }
    Ok(report)
}

/// One contender under one load.
async fn slot(folder: &Folder, contender: &Contender, load: Load, seconds: u32, round: u32) -> Result<Sample> {
    contender.calm().await?;
    let processes = contender.processes().await?;
    let (before, wal_before, began) = (Usage::of(&processes)?, contender.wal_position().await?, Instant::now());
    let (tps, latencies_us) = match load {
        Load::Pgbench { clients } => {
            let name = format!("{}-{clients}-{round}", contender.port());
            let (tps, latencies) = pgbench(folder, contender, &name, clients, seconds).await?;
            (Some(tps), latencies)
        }
        Load::Bulk => {
            contender.bulk(BULK_BYTES / BULK_ROW_BYTES).await?;
            (None, Vec::new())
        }
    };
    let elapsed = began.elapsed().as_secs_f64();
    let wal_bytes = contender.wal_position().await? - wal_before;
    let cpu_seconds = Usage::of(&processes)?.since(&before);
    let rate = tps.unwrap_or(wal_bytes as f64 / elapsed / 1e6);
    Ok(Sample { contender: contender.name(), load, rate, latencies_us, wal_bytes, cpu_seconds })
}

/// Transactions per second, and how long each took.
async fn pgbench(
    folder: &Folder,
    contender: &Contender,
    name: &str,
    clients: u32,
    seconds: u32,
) -> Result<(f64, Vec<u64>)> {
    let dir = folder.sub(name)?;
    let prefix = dir.join("t").display().to_string();
    let (clients, seconds, port) = (clients.to_string(), seconds.to_string(), contender.port().to_string());
    let args = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-n", "-N", "-M", "prepared", "-c", &clients];
    let rest =
        ["-j", if clients == "1" { "1" } else { "2" }, "-T", &seconds, "-l", "--log-prefix", &prefix, "postgres"];
    let all = args.into_iter().chain(rest);
    let said = contender.program("pgbench").run(folder, name, all, LOAD_WITHIN).await?.expect_code(0)?.stdout;
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.and_then(|text| text.split(' ').next()).and_then(|text| text.parse().ok());
    let latencies = latencies(&dir)?;
    std::fs::remove_dir_all(&dir)?;
    Ok((tps.with_context(|| format!("pgbench told no tps: {said}"))?, latencies))
}

/// The third field of every line of every log.
fn latencies(dir: &Path) -> Result<Vec<u64>> {
    let mut latencies = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let text = std::fs::read_to_string(entry?.path())?;
        latencies.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
    }
    ensure!(!latencies.is_empty(), "pgbench logged nothing");
    Ok(latencies)
}

/// By kind of process.
type ByKind<T> = BTreeMap<&'static str, T>;
