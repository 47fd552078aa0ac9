//! `seawall validate`: a replica restored to a scratch place, and proved.

use super::{failed, print};
use operate::process::{self, Exit};
use operate::restore::progress::size;
use operate::restore::validate as prove;
use serde_json::json;

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall validate s3://backups/wal
  seawall validate /mnt/archive --safekeepers sk1:5454,sk2:5454,sk3:5454 --scratch /var/tmp --json";

pub(crate) fn validate(flags: &config::ValidateFlags) -> Exit {
    process::log_to_stderr(config::LogFormat::Human);
    let (runtime, program) = match process::runtime().and_then(|runtime| Ok((runtime, std::env::current_exe()?))) {
        Ok(both) => both,
        Err(error) => return failed(&error, Exit::Failed),
    };
    let report = match runtime.block_on(prove::validate(flags, &program)) {
        Ok(report) => report,
        Err(error) => {
            if flags.json {
                print(&json!({"valid": false, "error": error.to_string()}).to_string());
            }
            return failed(&error, error.exit());
        }
    };
    if flags.json {
        print(&json!({"valid": true, "report": report}).to_string());
        return Exit::Done;
    }
    let (files, bytes, records) = (report.files, size(report.bytes), report.wal_records);
    let mut text = format!("valid: {files} files ({bytes}) and {records} records of WAL up to {}", report.wal_end);
    match report.checked_by {
        Some(program) => text.push_str(&format!("; a server recovered, and {program} read it through")),
        None => text.push_str("; no server was started"),
    }
    if let (Some(end), Some(missing)) = (&report.quorum_end, report.not_archived) {
        text.push_str(&format!("; the quorum's log ends at {end}, {missing} bytes of it are not archived"));
    }
    print(&text);
    Exit::Done
}
