//! The words after `cargo xtask`. Few enough that no library is worth its build.

use anyhow::{Context, Result, bail};

/// What is left of the command line.
pub(crate) struct Args(Vec<String>);

impl Args {
    pub(crate) fn from_env() -> Args {
        Args(std::env::args().skip(1).collect())
    }

    /// The next word, taken.
    pub(crate) fn next_word(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    pub(crate) fn wants_help(&self) -> bool {
        self.0.iter().any(|word| word == "--help" || word == "-h")
    }

    /// The value of `--flag VALUE` or `--flag=VALUE`, taken.
    pub(crate) fn value(&mut self, flag: &str) -> Result<Option<String>> {
        let equals = format!("{flag}=");
        let Some(index) = self.0.iter().position(|word| word == flag || word.starts_with(&equals)) else {
            return Ok(None);
        };
        let word = self.0.remove(index);
        if let Some(value) = word.strip_prefix(&equals) {
            return Ok(Some(value.to_owned()));
        }
        (index < self.0.len()).then(|| Some(self.0.remove(index))).with_context(|| format!("{flag} needs a value"))
    }

    /// Whether `--flag` is there; it is taken.
    pub(crate) fn flag(&mut self, flag: &str) -> bool {
        let index = self.0.iter().position(|word| word == flag);
        index.map(|index| self.0.remove(index)).is_some()
    }

    /// Nothing may be left.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.0.first() {
            Some(word) => bail!("{word:?} is not understood here; see --help"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn words_and_values_are_taken_and_the_rest_is_refused() {
        let mut words = args(&["test", "--only", "unit", "more"]);
        assert_eq!(words.next_word().as_deref(), Some("test"));
        assert_eq!(words.value("--only").unwrap().as_deref(), Some("unit"));
        assert_eq!(words.value("--only").unwrap(), None);
        assert!(words.finish().unwrap_err().to_string().contains("more"));
        let mut flags = args(&["commit", "--markdown"]);
        assert!(flags.flag("--markdown") && !flags.flag("--markdown"));
        assert_eq!(args(&["--rounds=3"]).value("--rounds").unwrap().as_deref(), Some("3"));
        assert!(args(&["--only"]).value("--only").is_err());
        assert!(args(&["x", "-h"]).wants_help());
    }
}
