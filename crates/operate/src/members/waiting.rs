//! What is being waited for: a line that changes on a terminal, a new line now and then elsewhere.

use indicatif::ProgressBar;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// The same sentence is said again after this where lines stay.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A display on standard error, gone when dropped.
#[derive(Debug)]
pub struct Waiting {
    bar: Option<ProgressBar>,
    said: Option<(String, Instant)>,
}

impl Waiting {
    /// Shows nothing yet.
    pub fn start() -> Waiting {
        Waiting { bar: io::stderr().is_terminal().then(ProgressBar::new_spinner), said: None }
    }

    /// Shows what is waited for.
    pub fn say(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            bar.tick();
        } else if self.said.as_ref().is_none_or(|(last, at)| last != text || at.elapsed() > AGAIN_AFTER) {
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "{text}");
            self.said = Some((text.to_owned(), Instant::now()));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
