//! `seawall wal-fetch`: restore_command. Its exit codes are PostgreSQL's: 0 there, 1 nowhere, 255 cannot be said.

use operate::process;
use operate::restore::wal_fetch as fetch;
use std::process::ExitCode;

pub(crate) const EXAMPLES: &str = "\
Example, in postgresql.conf of a standby:
  restore_command = 'seawall wal-fetch --replica s3://backups/wal %f %p'
`seawall restore` writes its own.";

pub(crate) fn wal_fetch(flags: &config::WalFetchFlags) -> ExitCode {
    let unknown = ExitCode::from(fetch::Answer::Unknown.code());
    let (runtime, program) = match process::runtime().and_then(|runtime| Ok((runtime, std::env::current_exe()?))) {
        Ok(both) => both,
        Err(error) => {
            process::complain(&error);
            return unknown;
        }
    };
    if flags.ahead {
        // Nobody listens: what cannot be fetched is met again by the call that needs it.
        return match runtime.block_on(fetch::ahead(flags)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => unknown,
        };
    }
    let answer = runtime.block_on(fetch::wal_fetch(flags, &program, process::complain));
    ExitCode::from(answer.code())
}
