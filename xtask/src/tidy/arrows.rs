//! The arrows between crates, against the table.

use super::floors::{IMPURE_CRATES, Place, Row};

/// A dependency as its manifest names it.
#[derive(Debug, Clone)]
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Only for tests.
    pub(crate) dev: bool,
    /// `to` is a crate of this workspace.
    pub(crate) ours: bool,
    /// The features of `to` that it turns on.
    pub(crate) features: Vec<String>,
}

/// The feature of a crate that makes it fail on demand. It must not get into anything that is shipped.
const FAULTS: &str = "faults";
/// Who turns it on, of which crate, and whether for tests only, which cargo leaves out of every build that makes none. What stands beside
/// the house is not shipped.
const FAULTS_IN: &[(&str, &str, bool)] = &[("scenarios", "disk", true), ("model", "consensus", false)];

/// What is wrong with the crates that exist and their arrows.
pub(crate) fn check(table: &[Row], crates: &[String], arrows: &[Arrow]) -> Vec<String> {
    let row = |name: &str| table.iter().find(|row| row.name == name);
    let mut problems = Vec::new();
    for name in crates {
        if row(name).is_none() {
            problems.push(format!("{name}: not in the table of crates; give it a floor in xtask/src/tidy/floors.rs"));
        }
    }
    for row in table.iter().filter(|row| !crates.iter().any(|name| name == row.name)) {
        problems.push(format!("{}: in the table of crates and not in the workspace", row.name));
    }
    for arrow in arrows {
        let Some(from) = row(&arrow.from) else { continue };
        let (Arrow { from: name, to, .. }, dev) = (arrow, arrow.dev);
        if !arrow.ours {
            if from.pure && !dev && IMPURE_CRATES.contains(&to.as_str()) {
                problems.push(format!("{name} -> {to}: a pure crate has no clock, chance, sockets or runtime"));
            }
            continue;
        }
        let may_fault = |(from, of, tests): &(&str, &str, bool)| from == name && of == to && (dev || !tests);
        if arrow.features.iter().any(|feature| feature == FAULTS) && !FAULTS_IN.iter().any(may_fault) {
            problems.push(format!("{name} -> {to}: only tests may turn on the feature {FAULTS}, see FAULTS_IN"));
        }
        let Some(target) = row(to) else { continue };
        let wrong = match (from.place, target.place) {
            (Place::Beside(on), _) if on.contains(&"*") || on.contains(&to.as_str()) => None,
            (Place::Beside(_), _) => Some("what stands beside the house depends only on the crates of its row"),
            (Place::Floor(_), Place::Beside(_)) if dev => None,
            (Place::Floor(_), Place::Beside(_)) => Some("only tests depend on what stands beside the house"),
            (Place::Floor(above), Place::Floor(below)) if above > below || (dev && above == below) => None,
            (Place::Floor(_), Place::Floor(_)) if dev => Some("tests do not look up either"),
            (Place::Floor(_), Place::Floor(_)) => Some("arrows go down only"),
        };
        if let Some(wrong) = wrong {
            problems.push(format!("{name} -> {to}: {wrong}"));
        }
    }
    problems
}

/// Whether a crate's own features, with what each enables, would turn on another's faults.
pub(crate) fn passes_faults_on<'a>(features: impl IntoIterator<Item = (&'a String, &'a Vec<String>)>) -> bool {
    features.into_iter().any(|(name, enables)| {
        let other = |feature: &String| feature.rsplit_once('/').is_some_and(|(_, feature)| feature == FAULTS);
        enables.iter().any(|feature| other(feature) || (feature == FAULTS && name == "default"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::floors::TABLE;
    use super::*;

    fn problems(from: &str, to: &str, dev: bool, ours: bool) -> Vec<String> {
        let crates: Vec<String> = TABLE.iter().map(|row| row.name.to_owned()).collect();
        let arrow = Arrow { from: from.to_owned(), to: to.to_owned(), dev, ours, features: Vec::new() };
        check(TABLE, &crates, &[arrow])
    }

    #[test]
    fn nothing_that_is_shipped_fails_on_demand() {
        let crates: Vec<String> = TABLE.iter().map(|row| row.name.to_owned()).collect();
        let refused = |from: &str, to: &str, dev| {
            let features = vec!["faults".to_owned()];
            let arrow = Arrow { from: from.to_owned(), to: to.to_owned(), dev, ours: true, features };
            check(TABLE, &crates, &[arrow]).iter().any(|problem| problem.contains("turn on the feature"))
        };
        assert!(!refused("scenarios", "disk", true) && !refused("model", "consensus", false));
        assert!(refused("scenarios", "disk", false) && refused("node", "disk", true) && refused("node", "disk", false));
        assert!(refused("keeper", "consensus", true) && refused("model", "disk", false));
        let passes = |name: &str, enables: &str| passes_faults_on([(&name.to_owned(), &vec![enables.to_owned()])]);
        assert!(passes("default", "faults") && passes("x", "disk/faults") && passes("x", "disk?/faults"));
        assert!(!passes("faults", "dep:x") && !passes("default", "x"));
    }

    #[test]
    fn arrows_go_down_only() {
        assert!(problems("keeper", "consensus", false, true).is_empty());
        assert!(problems("keeper", "leader", false, true)[0].contains("arrows go down only"));
        assert!(problems("keeper", "node", false, true)[0].contains("arrows go down only"));
        assert!(problems("keeper", "leader", true, true).is_empty());
        assert!(problems("keeper", "node", true, true)[0].contains("tests do not look up"));
    }

    #[test]
    fn what_stands_beside_is_for_tests() {
        assert!(problems("node", "pg-harness", true, true).is_empty());
        assert!(!problems("node", "pg-harness", false, true).is_empty());
        assert!(problems("pg-harness", "pg-server", false, true).is_empty());
        assert!(!problems("scenarios", "node", true, true).is_empty());
        assert!(!problems("xtask", "lsn", false, true).is_empty());
        assert!(problems("sim", "keeper", false, true).is_empty());
    }

    #[test]
    fn pure_crates_stay_pure() {
        assert!(!problems("consensus", "tokio", false, false).is_empty());
        assert!(problems("consensus", "rand", true, false).is_empty());
        assert!(problems("node", "tokio", false, false).is_empty());
    }

    #[test]
    fn table_and_workspace_name_the_same_crates() {
        let row = |name| Row { name, place: Place::Floor(0), pure: true };
        let found = check(&[row("a"), row("c")], &["a".to_owned(), "d".to_owned()], &[]);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("d: not in") && found[1].starts_with("c: in the table"));
    }

    #[test]
    fn the_table_names_each_crate_once() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|other| other.name != row.name), "{}", row.name);
        }
    }
}
