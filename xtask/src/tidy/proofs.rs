//! The table of `docs/durability.md` that says where each property is asserted: every test it names must exist.
//!
//! A row is `| S3 | what it says | model: test; scenario: file::test, file::test |`. What stands before a colon is a level, and chooses
//! the folder that is searched; before the test's name stand the crate, the file or the module it lies in, as many as make it clear.

/// The level, and where its tests are.
const LEVELS: &[(&str, &str)] = &[
    ("model", "crates/model/"),
    ("simulation", "crates/sim/"),
    ("images", "crates/wal-storage/tests/storage/images/"),
    ("unit", "crates/"),
    ("scenario", "tests/scenarios/"),
    ("fuzz", "tests/fuzz/"),
];

/// Under which heading the table stands.
const HEADING: &str = "## Where it is asserted";
/// The properties that must have a row, by number.
const PROPERTIES: std::ops::RangeInclusive<u32> = 1..=33;

/// A test that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    /// The file it stands in, relative to the root.
    pub(crate) path: String,
    pub(crate) name: String,
}

/// The tests of one file.
pub(crate) fn tests(path: &str, text: &str) -> Vec<Test> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            continue;
        }
        let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next());
        if let Some(name) = name
            && is_test
        {
            found.push(Test { path: path.to_owned(), name: name.to_owned() });
        }
        // Between an attribute and its function there may be comments.
        is_test &= line.starts_with("//") || line.is_empty();
    }
    // A target of the fuzzer is what the fuzzer calls by its name.
    if path.starts_with("tests/fuzz/") {
        let targets = text.lines().filter_map(|line| line.trim().strip_prefix("target(\"")?.split('"').next());
        found.extend(targets.map(|name| Test { path: path.to_owned(), name: name.to_owned() }));
    }
    found
}

/// What is wrong with the table of this document, by line.
pub(crate) fn check(document: &str, tests: &[Test]) -> Vec<(usize, String)> {
    let mut problems = Vec::new();
    let mut missing: Vec<u32> = PROPERTIES.collect();
    let lines = document.lines().enumerate().skip_while(|(_, line)| !line.starts_with(HEADING)).skip(1);
    for (index, line) in lines.take_while(|(_, line)| !line.starts_with("## ")) {
        let Some(row) = line.strip_prefix('|').and_then(|line| line.trim_end().strip_suffix('|')) else { continue };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let &[id, _, asserted] = &cells[..] else {
            problems.push((index + 1, "a row of this table has three cells".to_owned()));
            continue;
        };
        if id.starts_with("---") || asserted == "asserted by" {
            continue;
        }
        missing.retain(|number| id != format!("S{number}"));
        if asserted.is_empty() {
            problems.push((index + 1, format!("{id} is asserted nowhere")));
        }
        problems
            .extend(asserted.split(';').filter_map(|part| judge(part.trim(), tests).err()).map(|why| (index + 1, why)));
    }
    problems.extend(missing.iter().map(|number| (1, format!("S{number} has no row in \"{}\"", &HEADING[3..]))));
    problems
}

/// Whether all tests of `level: test, test` are there.
fn judge(part: &str, tests: &[Test]) -> Result<(), String> {
    if part.is_empty() {
        return Ok(());
    }
    let (level, names) = part
        .split_once(':')
        .filter(|(level, _)| !level.contains("::"))
        .ok_or_else(|| format!("\"{part}\" is no level and its tests"))?;
    let (_, folder) = LEVELS.iter().find(|(known, _)| *known == level).ok_or_else(|| {
        let levels: Vec<&str> = LEVELS.iter().map(|(name, _)| *name).collect();
        format!("\"{level}\" is none of {}", levels.join(", "))
    })?;
    for name in names.split(',').map(|name| name.trim().trim_matches('`')) {
        let mut places: Vec<&str> = name.split("::").collect();
        let test = places.pop().unwrap_or_default();
        let here = |found: &&Test| {
            found.name == test
                && found.path.starts_with(folder)
                && places.iter().all(|place| lies_in(&found.path, place))
        };
        match tests.iter().filter(here).count() {
            0 => return Err(format!("there is no test {name} in {folder}")),
            1 => {}
            _ => return Err(format!("there are several tests {name} in {folder}: say the crate or the file too")),
        }
    }
    Ok(())
}

/// Whether a folder or file of the path has this name, as Rust writes it.
fn lies_in(path: &str, place: &str) -> bool {
    path.split('/').any(|part| {
        let part = part.strip_suffix(".rs").unwrap_or(part);
        let part = part.strip_suffix("_test").unwrap_or(part);
        part == place || part.replace('-', "_") == place.replace('-', "_")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
/// Says something.
#[test]
fn a_vote_survives() {}

#[tokio::test]
async fn it_waits() {}

proptest! {
    #[test]
    #[expect(clippy::unwrap_used)]
    fn whatever_comes(seed: u64) {}
}

fn a_helper() {}
";

    fn found() -> Vec<Test> {
        let mut found = tests("crates/keeper/tests/keeper/push.rs", FILE);
        found.extend(tests("tests/scenarios/leaving.rs", "#[test]\nfn it_waits() {\n"));
        found.extend(tests("tests/fuzz/src/targets/mod.rs", "    target(\"pq_backend\", pq::backend),\n"));
        found
    }

    fn document(row: &str) -> String {
        let rows: String =
            PROPERTIES.filter(|n| *n != 3).map(|n| format!("| S{n} | x | fuzz: pq_backend |\n")).collect();
        format!(
            "# D\n| a | b |\n{HEADING}\n\n| property | says | asserted by |\n|---|---|---|\n{rows}{row}\n## Next\n| S1 | | |\n"
        )
    }

    #[test]
    fn tests_are_found_and_helpers_are_not() {
        let names: Vec<_> = found().into_iter().map(|test| test.name).collect();
        assert_eq!(names, ["a_vote_survives", "it_waits", "whatever_comes", "it_waits", "pq_backend"]);
    }

    #[test]
    fn a_row_names_tests_that_exist() {
        for good in [
            "| S3 | x | unit: keeper::a_vote_survives, push::whatever_comes; scenario: it_waits |",
            "| S3 | x | unit: `keeper::push::it_waits`; fuzz: pq_backend |",
        ] {
            assert_eq!(check(&document(good), &found()), [], "{good}");
        }
        for (bad, why) in [
            ("| S3 | x | unit: a_helper |", "there is no test a_helper in crates/"),
            ("| S3 | x | unit: leader::a_vote_survives |", "there is no test leader::a_vote_survives in crates/"),
            ("| S3 | x | scenario: a_vote_survives |", "there is no test a_vote_survives in tests/scenarios/"),
            ("| S3 | x | proof: it_waits |", "\"proof\" is none of model, simulation, images, unit, scenario, fuzz"),
            ("| S3 | x | it_waits |", "\"it_waits\" is no level and its tests"),
            ("| S3 | x | |", "S3 is asserted nowhere"),
            ("| S3 | unit: it_waits |", "a row of this table has three cells"),
            ("", "S3 has no row in \"Where it is asserted\""),
        ] {
            let problems = check(&document(bad), &found());
            assert!(problems.iter().any(|(_, problem)| problem == why), "{bad}: {problems:?}");
        }
        let twice = [found(), tests("crates/leader/src/a.rs", FILE)].concat();
        let problems = check(&document("| S3 | x | unit: it_waits |"), &twice);
        assert!(problems[0].1.contains("several"), "{problems:?}");
    }
}
