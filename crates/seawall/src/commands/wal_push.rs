//! `seawall wal-push`: archive_command.

use super::failed;
use operate::process::{self, Exit};
use operate::restore::wal_push as push;

pub(crate) const EXAMPLES: &str = "\
Examples, in postgresql.conf:
  archive_command = 'seawall wal-push --replica s3://backups/wal %p %f'
  archive_command = 'seawall wal-push --replica s3://backups/wal --safekeepers sk1:5454,sk2:5454,sk3:5454 %p %f'";

pub(crate) fn wal_push(flags: &config::WalPushFlags) -> Exit {
    match process::runtime().map(|runtime| runtime.block_on(push::wal_push(flags))) {
        Ok(Ok(_)) => Exit::Done,
        Ok(Err(error)) => failed(&error, Exit::Failed),
        Err(error) => failed(&error, Exit::Failed),
    }
}
