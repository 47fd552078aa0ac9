//! Killing a server so that nothing of it can write any more.
//!
//! Each of PostgreSQL's child processes leads a session of its own, so a signal to the postmaster's process group does not reach
//! them, and after the postmaster's death a busy one lives on for a while. So: stop the postmaster, so that it starts no more
//! children; kill the children; kill the postmaster; wait until all are gone or zombies, which hold neither memory nor files.
//! The postmaster is our unreaped child and its children cannot be reaped while it is stopped, so no process id is reused meanwhile.

use std::fs;
use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const GONE_WITHIN: Duration = Duration::from_secs(20);

pub(crate) fn kill_tree(postmaster: Pid) -> io::Result<()> {
    kill_process(postmaster, Signal::STOP)?;
    // The signal takes effect a moment later; until then the postmaster may still be making a child.
    let stop_by = Instant::now() + GONE_WITHIN;
    while stat(postmaster).is_some_and(|(state, _)| !matches!(state, 'T' | 't' | 'Z')) && Instant::now() < stop_by {
        thread::sleep(Duration::from_millis(1));
    }
    let children = children_of(postmaster);
    let killed = match &children {
        Ok(children) => children.iter().try_for_each(|child| ignore_gone(kill_process(*child, Signal::KILL))),
        Err(_) => Ok(()),
    };
    // Whatever went wrong above, the postmaster must not stay stopped.
    ignore_gone(kill_process(postmaster, Signal::KILL))?;
    killed?;
    let deadline = Instant::now() + GONE_WITHIN;
    for pid in children?.into_iter().chain([postmaster]) {
        while is_alive(pid) {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("process {} did not go", pid.as_raw_nonzero())));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Stops every process of a server, the postmaster first, so that it makes no child meanwhile; or lets them go on, it last.
pub(crate) fn freeze_tree(postmaster: Pid, frozen: bool) -> io::Result<()> {
    if frozen {
        kill_process(postmaster, Signal::STOP)?;
        let stop_by = Instant::now() + GONE_WITHIN;
        while stat(postmaster).is_some_and(|(state, _)| !matches!(state, 'T' | 't' | 'Z')) && Instant::now() < stop_by {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let signal = if frozen { Signal::STOP } else { Signal::CONT };
    let children = children_of(postmaster)?;
    children.iter().try_for_each(|child| ignore_gone(kill_process(*child, signal)))?;
    ignore_gone(kill_process(postmaster, signal))
}

fn ignore_gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

fn children_of(parent: Pid) -> io::Result<Vec<Pid>> {
    let parent = parent.as_raw_nonzero().get();
    let mut children = Vec::new();
    if fs::exists("/proc/self/stat")? {
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid
                && stat(pid).is_some_and(|(_, found)| found == parent)
            {
                children.push(pid);
            }
        }
    } else {
        let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output()?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
            if let (Some(Some(pid)), Some(Some(found))) = (numbers.next(), numbers.next())
                && found == parent
            {
                children.extend(Pid::from_raw(pid));
            }
        }
    }
    Ok(children)
}

/// State and parent from `/proc/<pid>/stat`: `pid (name) state ppid …`, where the name may hold spaces and parentheses.
fn stat(pid: Pid) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

fn is_alive(pid: Pid) -> bool {
    match stat(pid) {
        Some((state, _)) => !matches!(state, 'Z' | 'X'),
        // No /proc: a zombie cannot be told apart, but there the postmaster's children are reaped by launchd, and it by us.
        None => !fs::exists("/proc/self/stat").unwrap_or(false) && alive_without_proc(pid),
    }
}

fn alive_without_proc(pid: Pid) -> bool {
    let state = Command::new("ps").args(["-o", "state=", "-p", &pid.as_raw_nonzero().to_string()]).output();
    state.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        !text.trim().is_empty() && !text.trim().starts_with('Z')
    })
}
