//! The subcommands: from flags to a function of `operate`, and from its outcome to text and an exit code.

use operate::init::Done;
use operate::process::{self, Exit};
use operate::{init as begin, status as ask, up as run};
use serde_json::json;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const UP_EXAMPLES: &str = "\
Examples:
  seawall up
  seawall up --primary 'host=/run/postgresql user=postgres' --configure
  PG_BIN=/usr/lib/postgresql/17/bin seawall up --data-dir /srv/try";
pub(crate) const STATUS_EXAMPLES: &str = "\
Examples:
  seawall status
  seawall status --watch --http http://127.0.0.1:7676/
  seawall status --config /etc/seawall.toml --json";
pub(crate) const INIT_EXAMPLES: &str = "\
Example:
  seawall init --cluster orders --safekeepers sk1:5454,sk2:5454,sk3:5454";

/// How often `status --watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// The flags of `up` that are not in a file.
#[derive(clap::Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    flags: config::UpFlags,
    /// With --primary: set synchronous_standby_names on it (ALTER SYSTEM), and take that back on a clean stop
    #[arg(long, requires = "primary")]
    configure: bool,
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Says what went wrong and how that ends the process.
fn failed(error: &(dyn std::error::Error + 'static), exit: Exit) -> Exit {
    process::complain(error);
    exit
}

fn print(text: &str) {
    let mut stdout = io::stdout();
    // A reader that went away (`| head`) is no failure.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

pub(crate) fn up(args: UpArgs) -> Exit {
    let options = match args.flags.resolve() {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    process::log_to_stderr(options.common.log_format);
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(&error, Exit::Failed),
    };
    let setup = run::Setup { program, configure: args.configure, say: Arc::new(print) };
    let outcome = process::runtime().map(|runtime| {
        runtime.block_on(async {
            let stop = process::stop_requested(false)?;
            Ok::<_, io::Error>(run::up(&options, &setup, stop).await)
        })
    });
    match outcome {
        Ok(Ok(Ok(()))) => Exit::Done,
        Ok(Ok(Err(error))) if error.is_usage() => failed(&error, Exit::Usage),
        Ok(Ok(Err(error))) => failed(&error, if error.is_refusal() { Exit::Refused } else { Exit::Failed }),
        Ok(Err(error)) | Err(error) => failed(&error, Exit::Failed),
    }
}

pub(crate) fn status(flags: config::StatusFlags) -> Exit {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    let runtime = match process::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, Exit::Failed),
    };
    loop {
        let report = match runtime.block_on(ask::status(&options.source)) {
            Ok(report) => report,
            Err(error) => return failed(&error, Exit::Failed),
        };
        match options.json {
            true => print(&json!(report).to_string()),
            false => print(report.to_string().trim_end()),
        }
        if !options.watch {
            return if report.protected { Exit::Done } else { Exit::Failed };
        }
        runtime.block_on(async { tokio::time::sleep(WATCH_EVERY).await });
    }
}

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

pub(crate) fn safekeeper(flags: config::SafekeeperFlags) -> Exit {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    process::log_to_stderr(options.common.log_format);
    ended(process::safekeeper(&options))
}

pub(crate) fn walproposer(flags: config::ProposerFlags) -> Exit {
    let options = match flags.resolve(&env) {
        Ok(options) => options,
        Err(error) => return failed(&error, Exit::Usage),
    };
    process::log_to_stderr(options.common.log_format);
    ended(process::walproposer(&options))
}

fn ended(outcome: Result<(), process::Error>) -> Exit {
    match outcome {
        Ok(()) => Exit::Done,
        Err(error) => failed(&error, error.exit()),
    }
}
