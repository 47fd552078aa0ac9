//! The rules for documents: links lead somewhere, and words mean what the glossary says.

/// Words with a better one. Only whole words outside code count: `timeline_id` and START_REPLICATION's `TIMELINE` are names.
const WORDS: &[(&str, &str)] = &[
    ("timeline", "TLI (or era, or cluster)"),
    ("timelines", "TLIs (or eras, or clusters)"),
    ("master", "primary"),
    ("slave", "standby"),
    ("simply", "nothing: leave it out"),
    ("obviously", "nothing: leave it out"),
    ("whitelist", "allow-list"),
    ("blacklist", "deny-list"),
];

/// A line of a document outside fenced code, with its number.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// The line without what stands between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// Words of a document that have a better one.
pub(crate) fn check_words(text: &str) -> Vec<(usize, String)> {
    let mut problems = Vec::new();
    for (number, line) in prose(text) {
        let plain = without_code(line);
        for word in plain.split(|c: char| !c.is_alphanumeric() && c != '_') {
            if let Some((_, better)) =
                WORDS.iter().find(|(banned, _)| *banned == word.to_lowercase() && word != "TIMELINE")
            {
                problems.push((number, format!("\"{word}\": say {better}")));
            }
        }
    }
    problems
}

/// The relative targets a document links to, with their lines, without anchors.
pub(crate) fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let plain = without_code(line);
        for after in plain.split("](").skip(1) {
            let Some((target, _)) = after.split_once(')') else { continue };
            let target = target.split_whitespace().next().unwrap_or_default();
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number, path.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_looked_for_in_prose_only() {
        assert_eq!(check_words("A timeline.\n").len(), 1);
        assert_eq!(
            check_words("Timelines and `timeline` and timeline_id and TIMELINE_HISTORY and TIMELINE 2\n").len(),
            1
        );
        assert_eq!(check_words("```\na timeline\n```\n"), []);
        assert_eq!(check_words("x\n\nthe master\n"), [(3, "\"master\": say primary".to_owned())]);
    }

    #[test]
    fn relative_links_are_found() {
        let text = "[a](b.md) [c](https://x/y) [d](#e) [f](../g.md#h \"title\") `[i](j.md)`\n```\n[k](l.md)\n```\n[m](mailto:n)";
        assert_eq!(links(text), [(1, "b.md".to_owned()), (1, "../g.md".to_owned())]);
    }
}
