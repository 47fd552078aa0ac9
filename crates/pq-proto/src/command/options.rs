//! [`Options`]: the parenthesised list of a command. Knows no key.

/// Keys and values in the order written; no key twice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// No options.
    pub fn new() -> Options {
        Options::default()
    }

    /// A key's value; empty for a key that stood without one.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The same with one more option; an earlier value of the key is replaced.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Options {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(name, _)| *name == key) {
            Some(option) => option.1 = value,
            None => self.0.push((key, value)),
        }
        self
    }

    /// Adds an option unless the key is there already; whether it was added.
    pub(super) fn add(&mut self, key: String, value: String) -> bool {
        let new = self.get(&key).is_none();
        if new {
            self.0.push((key, value));
        }
        new
    }

    /// Takes an option out.
    pub(super) fn remove(&mut self, key: &str) -> Option<String> {
        let index = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(index).1)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Options {
    /// A later value of a key replaces an earlier one.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Options {
        pairs.into_iter().fold(Options::default(), |options, (key, value)| options.with(key, value))
    }
}
