//! The rules for one source file.
//!
//! Calls are looked for in the code alone: [`code_of`] blanks comments and literals, so that a word in a sentence is no call. It reads
//! Rust's tokens as far as that needs, no further.

/// More lines than this, tests not counted, and a file has two things to say.
pub(crate) const LINES_MAX: usize = 600;

/// Files that were longer when the rule came, with their length: they may shrink, not grow. Shorter ones are taken out of the list.
pub(crate) const LONG_FILES: &[(&str, usize)] = &[];

/// The crates that may sync: the real disk, the store that decides when, and the shadow WAL of SQLite, which syncs through the port `disk`
/// before a position is told to anybody.
const SYNCING: [&str; 3] = ["crates/disk/", "crates/wal-storage/", "crates/sqlite-source/"];
const SYNCS: [&str; 6] = ["sync_data(", "sync_all(", "fdatasync(", "fsync(", "syncfs(", "sync_file_range("];
const CLOCKS: [&str; 7] =
    ["Instant::now", "SystemTime::now", "thread::sleep", "rand::", "thread_rng", "getrandom", "RandomState"];

/// What is wrong with a file, each with its line. `path` is relative to the root, `pure` says that its crate is.
pub(crate) fn check(path: &str, text: &str, pure: bool, long_files: &[(&str, usize)]) -> Vec<(usize, String)> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push((1, "the file does not begin with //!: what is it for?".to_owned()));
    }
    let code = code_of(text);
    let lines: Vec<&str> = code.lines().collect();
    let is_test =
        path.ends_with("_test.rs") || path.split('/').any(|part| matches!(part, "test" | "tests" | "benches"));
    let tests_at = lines.iter().position(|line| *line == "#[cfg(test)]").unwrap_or(lines.len());
    let own_lines = if is_test { 0 } else { tests_at };
    let known = long_files.iter().find(|(long, _)| *long == path).map(|(_, lines)| *lines);
    match known {
        Some(known) if own_lines > known => {
            problems.push((own_lines, format!("the file grew from {known} lines; split it")))
        }
        Some(_) if own_lines <= LINES_MAX => {
            problems.push((1, "the file is short now; take it from LONG_FILES".to_owned()))
        }
        None if own_lines > LINES_MAX => {
            problems.push((own_lines, format!("more than {LINES_MAX} lines without tests; split the file")))
        }
        _ => {}
    }
    for (index, line) in lines.iter().enumerate() {
        let mut say = |problem: String| problems.push((index + 1, problem));
        let squeezed: String = line.chars().filter(|c| !c.is_whitespace()).collect();
        if squeezed.contains("#[allow(") || squeezed.contains("#![allow(") {
            say("no #[allow]: mend it, or #[expect(…, reason = \"…\")]".to_owned());
        }
        if squeezed.contains("#[ignore") {
            say("no ignored tests: assert what is, with a note".to_owned());
        }
        if !SYNCING.iter().any(|folder| path.starts_with(folder))
            && let Some(call) = SYNCS.iter().find(|call| calls(line, call))
        {
            say(format!("{call}) is called by disk, wal-storage and sqlite-source only"));
        }
        if pure
            && !is_test
            && index < tests_at
            && let Some(call) = CLOCKS.iter().find(|call| line.contains(*call))
        {
            say(format!("{call} in a pure crate: time and chance come from outside"));
        }
    }
    problems
}

/// A call of exactly this name.
fn calls(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The text with comments and the insides of literals blanked, line by line the same.
pub(crate) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = token_end(&chars, at);
        match end {
            Some(end) => {
                code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
                at = end;
            }
            None => {
                code.push(chars[at]);
                at += 1;
            }
        }
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `None` if none begins there.
fn token_end(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['/', '/', ..] => Some(at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => Some(at + block_comment_len(rest)),
        ['"', ..] => Some(at + quoted_len(rest)),
        ['r', '"' | '#', ..] if !after_word => raw_len(rest, 1).map(|len| at + len),
        ['b', 'r', '"' | '#', ..] if !after_word => raw_len(rest, 2).map(|len| at + len),
        ['\'', '\\', ..] => Some(at + quoted_len(rest)),
        // Three characters are a character; fewer, a lifetime.
        ['\'', _, '\'', ..] => Some(at + 3),
        _ => None,
    }
}

fn block_comment_len(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// From the opening quote to the closing one, backslashes skipping a character.
fn quoted_len(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != rest[0] {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `r"…"`, `r#"…"#`; `None` for a raw identifier (`r#type`).
fn raw_len(rest: &[char], prefix: usize) -> Option<usize> {
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&'"') {
        return None;
    }
    let mut at = open + 1;
    while at < rest.len() {
        if rest[at] == '"' && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(at + 1 + hashes);
        }
        at += 1;
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str, pure: bool) -> Vec<(usize, String)> {
        check(path, text, pure, &[])
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* /* b */ */ c", "a               c"),
            ("f(\"x\\\"y\", 'z', '\\'', 'a)", "f(      ,    ,     , 'a)"),
            ("r#\"a\"b\"# c", "         c"),
            ("br\"a\" c r#type", "      c r#type"),
            ("for r in", "for r in"),
            ("\"open", "     "),
            ("'\\", "  "),
        ] {
            assert_eq!(code_of(text), code, "{text}");
        }
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        assert_eq!(problems("crates/a/src/lib.rs", "//! A.\n", false), []);
        assert_eq!(problems("crates/a/src/lib.rs", "fn a() {}\n", false)[0].0, 1);
    }

    #[test]
    fn only_two_crates_sync() {
        let text = "//! A.\n// file.sync_all()\nfn a() { file.sync_all()?; }\n";
        assert_eq!(
            problems("crates/node/src/a.rs", text, false),
            [(3, "sync_all() is called by disk, wal-storage and sqlite-source only".to_owned())]
        );
        assert_eq!(problems("crates/disk/src/a.rs", text, false), []);
        assert_eq!(problems("crates/node/src/a.rs", "//! A.\nfn a() { my_fsync(\"fsync(\") }\n", false), []);
    }

    #[test]
    fn pure_code_has_no_clock_and_its_tests_may() {
        let text = "//! A.\nfn a() { Instant::now(); }\n#[cfg(test)]\nmod tests { fn b() { Instant::now(); } }\n";
        let found = problems("crates/keeper/src/a.rs", text, true);
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2]);
        assert_eq!(problems("crates/node/src/a.rs", text, false), []);
        assert_eq!(problems("crates/keeper/src/a_test.rs", text, true), []);
    }

    #[test]
    fn nothing_is_allowed_or_ignored() {
        let text =
            "//! A.\n#[ allow(dead_code)]\n#![allow(x)]\n#[ignore = \"slow\"]\n#[expect(x, reason = \"#[allow(\")]\n";
        assert_eq!(
            problems("crates/a/src/a.rs", text, false).iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [2, 3, 4]
        );
    }

    #[test]
    fn long_files_shrink() {
        let text = |lines: usize| {
            format!("//! A.\n{}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(lines - 1), "\n".repeat(900))
        };
        let path = "crates/a/src/a.rs";
        assert_eq!(check(path, &text(LINES_MAX), false, &[]), []);
        assert_eq!(check(path, &text(LINES_MAX + 1), false, &[]).len(), 1);
        assert_eq!(check(path, &text(700), false, &[(path, 700)]), []);
        assert_eq!(check(path, &text(701), false, &[(path, 700)]).len(), 1);
        assert!(check(path, &text(600), false, &[(path, 700)])[0].1.contains("LONG_FILES"));
    }
}
