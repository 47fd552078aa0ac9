//! [`across`]: a [`View`] whose answers come from another thread.
//!
//! HTTP runs on a thread of its own. A question travels to the thread that does the part's work and its answer back, so that
//! nothing is shared and a slow reader of the status costs the work nothing.

use std::sync::mpsc as answers;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{Metrics, View};

/// How long a request waits for the working thread.
const DEADLINE: Duration = Duration::from_secs(5);
/// Questions that may wait; more requests than this get no answer.
const WAITING_MAX: usize = 16;

/// What somebody wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// `/v1/status`: everything.
    Status,
    /// `/v1/clusters/{name}`; answer null if there is no such cluster.
    Cluster(String),
    /// `/v1/ready`; answer null if it is, else the reason as text.
    Ready,
    /// `/metrics` is about to be rendered: set the gauges that are computed when somebody looks. Answer null.
    RefreshGauges,
}

/// A question that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub question: Question,
    answer: answers::SyncSender<Value>,
}

impl Asked {
    /// Answers it. Who asked may have given up by now.
    pub fn answer(self, value: Value) {
        let _ = self.answer.try_send(value);
    }
}

/// The working thread's end.
#[derive(Debug)]
pub struct Questions(mpsc::Receiver<Asked>);

impl Questions {
    /// The next question; `None` once nobody can ask any more. May be cancelled without loss.
    pub async fn next(&mut self) -> Option<Asked> {
        self.0.recv().await
    }
}

/// Both ends for a part of this name, like `safekeeper`.
pub fn across(part: &'static str, metrics: Metrics) -> (impl View, Questions) {
    let (questions, asked) = mpsc::channel(WAITING_MAX);
    (Across { part, questions, metrics }, Questions(asked))
}

struct Across {
    part: &'static str,
    questions: mpsc::Sender<Asked>,
    metrics: Metrics,
}

impl Across {
    fn ask(&self, question: Question) -> Option<Value> {
        let (answer, answered) = answers::sync_channel(1);
        self.questions.try_send(Asked { question, answer }).ok()?;
        answered.recv_timeout(DEADLINE).ok()
    }

    fn silence(&self) -> String {
        format!("the {} does not answer", self.part)
    }
}

impl View for Across {
    fn status(&self) -> Value {
        self.ask(Question::Status).unwrap_or_else(|| json!({"kind": self.part, "error": self.silence()}))
    }

    fn cluster(&self, name: &str) -> Option<Value> {
        self.ask(Question::Cluster(name.to_owned())).filter(|value| !value.is_null())
    }

    fn ready(&self) -> Result<(), String> {
        match self.ask(Question::Ready) {
            Some(Value::Null) => Ok(()),
            Some(Value::String(reason)) => Err(reason),
            _ => Err(self.silence()),
        }
    }

    fn metrics(&self) -> String {
        self.ask(Question::RefreshGauges);
        self.metrics.render()
    }

    fn page(&self) -> String {
        let status = serde_json::to_string_pretty(&self.status()).unwrap_or_default();
        let escaped = status.replace('&', "&amp;").replace('<', "&lt;");
        let head = format!("<meta charset=\"utf-8\"><title>Seawall {0}</title><h1>Seawall {0}</h1>", self.part);
        format!("<!doctype html><html lang=\"en\">{head}<pre>{escaped}</pre></html>")
    }
}
