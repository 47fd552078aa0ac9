//! `seawall import`: Litestream's configuration as ours.

use super::{failed, print};
use operate::process::Exit;
use operate::sqlite::import as from;

pub(crate) const EXAMPLES: &str = "\
Example:
  seawall import /etc/litestream.yml > seawall.toml";

pub(crate) fn import(flags: &config::ImportFlags) -> Exit {
    match from::import(&flags.file) {
        Ok(text) => {
            print(text.trim_end());
            Exit::Done
        }
        Err(error) => failed(&error, Exit::Failed),
    }
}
