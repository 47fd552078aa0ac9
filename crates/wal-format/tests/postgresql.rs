//! The scanner against WAL that an installed PostgreSQL wrote, judged by its own `pg_waldump`.
//!
//! Needs `initdb`, `postgres` and `pg_waldump` on the machine; run as root it uses the account `postgres`.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may fail by panicking")]

use lsn::{Lsn, SegmentSize, Tli};
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use wal_format::{RecordSeen, ScanOptions, Scanner, magic_for_version_num};

/// The newest PostgreSQL on the machine: its programs' directory.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        found.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    found.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    for major in (13..=18).rev() {
        found.push(PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
        found.push(PathBuf::from(format!("/usr/pgsql-{major}/bin")));
    }
    let complete = |dir: &PathBuf| ["initdb", "postgres", "pg_waldump"].iter().all(|name| dir.join(name).is_file());
    found
        .into_iter()
        .find(complete)
        .expect("this test needs PostgreSQL 13 to 18 (initdb, postgres, pg_waldump): install its server package")
}

/// uid and gid of `postgres` when this process is root, because PostgreSQL refuses to run as root.
fn account() -> Option<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap().split_whitespace().nth(1).unwrap();
    if uid != "0" {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<_> = line.expect("run as root this test needs the account postgres").split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn run(program: &Path, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some((uid, gid)) = account() {
        command.uid(uid).gid(gid);
    }
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// (start, previous, total length) of every record, as `pg_waldump` prints them.
fn waldump(output: &str) -> Vec<(Lsn, Lsn, u32)> {
    let after = |line: &str, mark: &str| {
        let rest = &line[line.find(mark).unwrap() + mark.len()..];
        rest.trim_start().split([',', ' ']).next().unwrap().to_owned()
    };
    let total = |line: &str| {
        // "len (rec/tot):     54/   114, tx: ..."
        let lengths = &line[line.find("tot):").unwrap() + 5..line.find(", tx:").unwrap()];
        lengths.split('/').nth(1).unwrap().trim().parse().unwrap()
    };
    let parse = |line: &str| (after(line, "lsn:").parse().unwrap(), after(line, "prev ").parse().unwrap(), total(line));
    output.lines().filter(|line| line.starts_with("rmgr:")).map(parse).collect()
}

fn compare(megabytes: u64) {
    let programs = programs();
    let place = tempfile::tempdir().unwrap();
    if let Some((uid, gid)) = account() {
        chown(place.path(), Some(uid), Some(gid)).unwrap();
    }
    let data = place.path().join("data");
    let data = data.to_str().unwrap();
    let size = megabytes.to_string();
    let made = run(
        &programs.join("initdb"),
        &["-D", data, "--no-sync", "-U", "postgres", "-A", "trust", "--wal-segsize", &size],
        "",
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let big = (megabytes << 19) * 3;
    let sql = format!(
        "create table t (a int, b text);\n\
         insert into t select n, repeat(md5(n::text), n % 40) from generate_series(1, 5000) n;\n\
         select pg_switch_wal();\n\
         update t set a = a + 1;\n\
         select length(pg_logical_emit_message(true, 'x', repeat('y', {big}))::text);\n\
         select pg_switch_wal();\n\
         create index on t (a);\n"
    );
    let single = [
        "--single",
        "-D",
        data,
        "-c",
        "fsync=off",
        "-c",
        "wal_keep_size=1GB",
        "-c",
        "checkpoint_timeout=1d",
        "postgres",
    ];
    let written = run(&programs.join("postgres"), &single, &sql);
    let complaint = String::from_utf8_lossy(&written.stderr).into_owned();
    assert!(written.status.success() && !complaint.contains("ERROR"), "{complaint}");

    let segment_size = SegmentSize::new(megabytes << 20).unwrap();
    let wal = Path::new(data).join("pg_wal");
    let names = std::fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // initdb wrote and removed some already: the oldest left may well begin inside a record.
    let first = names.filter_map(|name| segment_size.parse_file_name(&name)).map(|(_, segment)| segment).min().unwrap();

    let version = String::from_utf8(run(&programs.join("postgres"), &["--version"], "").stdout).unwrap();
    let major: u32 = version.split_whitespace().nth(2).unwrap().split('.').next().unwrap().parse().unwrap();
    let options = ScanOptions { magic: magic_for_version_num(major * 10_000), ..ScanOptions::new(segment_size) };
    let mut scanner = Scanner::at_page_start(options, segment_size.start_of(first));
    let mut seen: Vec<RecordSeen> = Vec::new();
    let mut segment = first;
    let end = loop {
        let Ok(bytes) = std::fs::read(wal.join(segment_size.file_name(Tli(1), segment))) else {
            panic!("no end found")
        };
        // Odd slices, so that headers are split.
        if let Some(error) = bytes.chunks(65_521).find_map(|part| scanner.feed_with(part, &mut |r| seen.push(*r)).err())
        {
            break error.at();
        }
        segment = segment.next();
    };
    let (begin, wal) = (seen[0].start.to_string(), wal.to_str().unwrap());
    let dumped = run(&programs.join("pg_waldump"), &["-p", wal, "-s", &begin, "-t", "1"], "");
    let expected = waldump(&String::from_utf8_lossy(&dumped.stdout));
    assert!(expected.len() > 5000, "{}", String::from_utf8_lossy(&dumped.stderr));
    let found: Vec<_> = seen.iter().map(|r| (r.start, r.header.prev, r.header.total_len)).collect();
    assert_eq!(found, expected);
    for pair in seen.windows(2) {
        let (end, next) = (pair[0].end, pair[1].start);
        let header = wal_format::page::header_len(end, segment_size) as u64;
        assert!(next == end || (end.0 % 8192 == 0 && next.0 == end.0 + header), "{end} is not followed by {next}");
    }
    assert!(end >= scanner.record_end() && scanner.record_end() == seen.last().unwrap().end);
    assert!(seen.iter().filter(|r| r.header.is_switch() && segment_size.offset_of(r.end) == 0).count() >= 2);
}

#[test]
fn sixteen_megabyte_segments_agree_with_pg_waldump() {
    compare(16);
}

#[test]
fn one_megabyte_segments_agree_with_pg_waldump() {
    compare(1);
}
