//! `seawall init`: a cluster begins on its safekeepers.

use super::{env, failed, print};
use operate::init::{self as begin, Done};
use operate::process::{self, Exit};
use serde_json::json;

pub(crate) const EXAMPLES: &str = "\
Example:
  seawall init --cluster orders --safekeepers sk1:5454,sk2:5454,sk3:5454";

pub(crate) fn init(flags: config::InitFlags) -> Exit {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    let outcome = match process::runtime().map(|runtime| runtime.block_on(begin::init(&options))) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => return failed(&error, if error.is_refusal() { Exit::Refused } else { Exit::Failed }),
        Err(error) => return failed(&error, Exit::Failed),
    };
    let (record, members) = (&outcome.record, &outcome.record.membership.members);
    let (word, sentence) = match outcome.done {
        Done::Created => ("created", "begins"),
        Done::Finished => ("finished", "begins (an init that had broken off is finished)"),
        Done::AlreadyThere => ("already-there", "was there already"),
    };
    if options.json {
        let members: Vec<_> =
            members.iter().map(|member| json!({"node_id": member.node.0, "disk_id": member.disk.to_string(), "host": member.host, "port": member.port})).collect();
        let (tenant, timeline) = (record.cluster.tenant_hex(), record.cluster.timeline_hex());
        print(&json!({"done": word, "cluster": record.name, "tenant_id": tenant, "timeline_id": timeline, "members": members, "advice": outcome.advice}).to_string());
    } else {
        print(&format!("cluster {} {sentence} on {} safekeepers", record.name, members.len()));
        for advice in &outcome.advice {
            print(&format!("before it is protected: {advice}"));
        }
    }
    Exit::Done
}
