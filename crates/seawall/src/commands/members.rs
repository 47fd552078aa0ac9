//! `seawall members`: who belongs to a cluster.

use super::{env, failed, print};
use operate::members::{self, Outcome, Survey, Waiting};
use operate::process::{self, Exit};
use serde_json::{Value, json};

pub(crate) const EXAMPLES: &str = "\
Examples:
  seawall members list --safekeepers sk1:5454,sk2:5454,sk3:5454
  seawall members replace --node 3 --new sk4:5454 --safekeepers sk1:5454,sk2:5454,sk3:5454";

pub(crate) fn members(flags: config::MembersFlags) -> Exit {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    let outcome = {
        let mut waiting = Waiting::start();
        let mut say = |text: &str| waiting.say(text);
        process::runtime().map(|runtime| runtime.block_on(members::members(&options, &mut say)))
    };
    let outcome = match outcome {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => return failed(&error, if error.is_refusal() { Exit::Refused } else { Exit::Failed }),
        Err(error) => return failed(&error, Exit::Failed),
    };
    if options.json {
        print(&as_json(&outcome).to_string())
    } else {
        show(&outcome)
    }
    Exit::Done
}

/// One row for everybody who is a member or answered: node, disk, address, what it is, term, flush LSN, commit LSN.
fn rows(survey: &Survey) -> Vec<[String; 7]> {
    let mut rows = Vec::new();
    for member in survey.record.all_members() {
        let address = format!("{}:{}", member.host, member.port);
        let (node, disk) = (member.node.to_string(), member.disk.to_string());
        let said = survey.member(member).and_then(|seen| seen.row.as_ref());
        rows.push(match said {
            Some(row) => {
                let (term, flush, commit) = (row.term.to_string(), row.flush.to_string(), row.commit.to_string());
                [node, disk, address, row.state.to_string(), term, flush, commit]
            }
            None => [node, disk, address, "silent".to_owned(), String::new(), String::new(), String::new()],
        });
    }
    for seen in survey.seen.iter().filter(|seen| !survey.record.includes(seen.node, seen.disk)) {
        if let Some(row) = &seen.row {
            let (term, flush, commit) = (row.term.to_string(), row.flush.to_string(), row.commit.to_string());
            let (node, disk) = (seen.node.to_string(), seen.disk.to_string());
            rows.push([node, disk, seen.address.to_string(), row.state.to_string(), term, flush, commit]);
        }
    }
    rows
}

fn show(outcome: &Outcome) {
    let record = &outcome.survey.record;
    let state = if record.new_members.is_some() { ", a change is under way" } else { "" };
    print(&format!(
        "cluster {}: {} members, generation {}{state}",
        outcome.survey.name,
        record.members.len(),
        record.generation
    ));
    let head = ["node", "disk", "address", "state", "term", "flush LSN", "commit LSN"];
    let table = operate::restore::table(&head, rows(&outcome.survey).into_iter().map(Vec::from));
    print(&table);
    for advice in &outcome.advice {
        print(advice);
    }
}

fn as_json(outcome: &Outcome) -> Value {
    let names = ["node_id", "disk_id", "address", "state", "term", "flush_lsn", "commit_lsn"];
    let row = |row: [String; 7]| {
        Value::Object(names.iter().map(|name| (*name).to_owned()).zip(row.map(Value::from)).collect())
    };
    let members: Vec<Value> = rows(&outcome.survey).into_iter().map(row).collect();
    json!({
        "cluster": outcome.survey.name,
        "changed": outcome.changed,
        "generation": outcome.survey.record.generation,
        "membership": outcome.survey.record.to_string(),
        "change_under_way": outcome.survey.record.new_members.is_some(),
        "members": members,
        "advice": outcome.advice,
    })
}
