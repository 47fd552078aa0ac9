//! `${NAME}` in the values of the file.
//!
//! `${NAME}` stands for the environment variable, `$$` for one `$`; any other `$` is itself, because passwords hold it. What came from
//! the environment is not expanded again.

use crate::error::Problem;
use crate::file::Env;

/// The text with every reference replaced.
pub(crate) fn expand(text: &str, env: Env<'_>) -> Result<String, Problem> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            after
        } else if let Some(after) = after.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or(Problem::OpenReference)?;
            if !is_name(name) {
                return Err(Problem::BadReference { name: name.chars().take(80).collect() });
            }
            expanded.push_str(&env(name).ok_or_else(|| Problem::Unset { name: name.to_owned() })?);
            after
        } else {
            expanded.push('$');
            after
        };
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOME_1" => Some("/home".to_owned()),
            "TRICK" => Some("${HOME_1}$$".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn references_are_replaced_once() {
        for (text, expanded) in [
            ("", ""),
            ("plain", "plain"),
            ("${HOME_1}/a${HOME_1}", "/home/a/home"),
            ("$${HOME_1}", "${HOME_1}"),
            ("pa$word$", "pa$word$"),
            ("$$$", "$$"),
            ("${TRICK}", "${HOME_1}$$"),
        ] {
            assert_eq!(expand(text, &env).unwrap(), expanded, "{text}");
        }
    }

    #[test]
    fn broken_references_are_errors() {
        assert!(matches!(expand("a${NONE}", &env), Err(Problem::Unset { name }) if name == "NONE"));
        assert!(matches!(expand("${HOME_1", &env), Err(Problem::OpenReference)));
        for text in ["${}", "${1A}", "${A B}", "${A-x}"] {
            assert!(matches!(expand(text, &env), Err(Problem::BadReference { .. })), "{text}");
        }
    }
}
