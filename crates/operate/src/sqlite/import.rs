//! `seawall import`: Litestream's configuration as ours.
//!
//! What has no counterpart is said in comments, never dropped silently. Variables stay variables.

use serde::Deserialize;
use serde_norway::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Larger than any configuration.
const FILE_MAX: u64 = 1024 * 1024;

/// Why a file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Its syntax.
    #[error("{} is no configuration of Litestream", .0.display())]
    Syntax(PathBuf, #[source] serde_norway::Error),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct Litestream {
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    #[serde(default)]
    dbs: Vec<Db>,
    addr: Option<String>,
    exec: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Db {
    path: Option<String>,
    dir: Option<String>,
    pattern: Option<String>,
    recursive: Option<bool>,
    meta_path: Option<String>,
    monitor_interval: Option<String>,
    checkpoint_interval: Option<String>,
    busy_timeout: Option<String>,
    min_checkpoint_page_count: Option<u64>,
    truncate_page_n: Option<u64>,
    #[serde(default)]
    replicas: Vec<Replica>,
    replica: Option<Replica>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct Replica {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: Option<String>,
    path: Option<String>,
    url: Option<String>,
    bucket: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    force_path_style: Option<bool>,
    skip_verify: Option<bool>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    account_name: Option<String>,
    account_key: Option<String>,
    retention: Option<String>,
    retention_check_interval: Option<String>,
    sync_interval: Option<String>,
    snapshot_interval: Option<String>,
    validation_interval: Option<String>,
    age: Option<Age>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize, Default)]
struct Age {
    #[serde(default)]
    identities: Vec<String>,
    #[serde(default)]
    recipients: Vec<String>,
}

/// Reads the file and says the same in our words.
pub fn import(path: &Path) -> Result<String, ImportError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
    read.map_err(|error| ImportError::Read(path.to_path_buf(), error))?;
    convert(&text).map_err(|error| ImportError::Syntax(path.to_path_buf(), error))
}

fn convert(text: &str) -> Result<String, serde_norway::Error> {
    let from: Litestream = serde_norway::from_str(text)?;
    let mut to = Text::default();
    to.comment("made by `seawall import`; run it with `seawall replicate --config seawall.toml`");
    if let Some(addr) = &from.addr {
        let address = if addr.starts_with(':') { format!("127.0.0.1{addr}") } else { addr.clone() };
        to.comment(&format!("addr: give `--listen-http {address}`"));
    }
    if let Some(exec) = &from.exec {
        to.comment(&format!("exec: give `--exec {exec:?}`"));
    }
    to.unknown(&from.rest);
    for db in &from.dbs {
        to.line("\n[[sqlite]]");
        to.text("path", db.path.as_deref());
        to.text("dir", db.dir.as_deref());
        to.text("pattern", db.pattern.as_deref());
        to.plain("recursive", db.recursive);
        to.text("meta_path", db.meta_path.as_deref());
        to.text("monitor_interval", db.monitor_interval.as_deref());
        to.text("checkpoint_interval", db.checkpoint_interval.as_deref());
        to.text("busy_timeout", db.busy_timeout.as_deref());
        to.plain("min_checkpoint_pages", db.min_checkpoint_page_count);
        to.plain("truncate_pages", db.truncate_page_n.filter(|pages| *pages > 0));
        to.unknown(&db.rest);
        for replica in db.replicas.iter().chain(&db.replica) {
            to.replica(replica, &from);
        }
    }
    Ok(to.0)
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn comment(&mut self, text: &str) {
        for line in text.lines() {
            self.line(&format!("# {line}"));
        }
    }

    /// A string, with `$NAME` as `${NAME}`.
    fn text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            let mut quoted = String::new();
            for c in braced(value).chars() {
                match c {
                    '"' | '\\' => quoted.extend(['\\', c]),
                    c if c.is_control() => {
                        // A String takes everything.
                        let _ = write!(quoted, "\\u{:04X}", u32::from(c));
                    }
                    c => quoted.push(c),
                }
            }
            self.line(&format!("{key} = \"{quoted}\""));
        }
    }

    fn list(&mut self, key: &str, values: &[String]) {
        if !values.is_empty() {
            let values: Vec<String> = values.iter().map(|value| format!("{:?}", braced(value))).collect();
            self.line(&format!("{key} = [{}]", values.join(", ")));
        }
    }

    fn plain(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.line(&format!("{key} = {value}"));
        }
    }

    fn unknown(&mut self, rest: &BTreeMap<String, Value>) {
        for key in rest.keys() {
            self.comment(&format!("{key}: has no counterpart here"));
        }
    }

    fn replica(&mut self, replica: &Replica, all: &Litestream) {
        self.line("[[sqlite.replica]]");
        match url(replica) {
            Some(url) => self.text("url", Some(&url)),
            None => self.comment(&format!(
                "a replica of type {} cannot be kept here; name another place as url",
                replica.kind.as_deref().unwrap_or("unknown")
            )),
        }
        self.text("name", replica.name.as_deref());
        self.text("region", replica.region.as_deref());
        self.text("endpoint", replica.endpoint.as_deref());
        self.plain("force_path_style", replica.force_path_style);
        self.plain("skip_verify", replica.skip_verify);
        let key = replica.access_key_id.as_deref().or(all.access_key_id.as_deref());
        let secret = replica.secret_access_key.as_deref().or(all.secret_access_key.as_deref());
        self.text("access_key_id", key);
        self.text("secret_access_key", secret);
        self.text("account_name", replica.account_name.as_deref());
        self.text("account_key", replica.account_key.as_deref());
        self.text("sync_interval", replica.sync_interval.as_deref());
        self.text("retention", replica.retention.as_deref());
        self.text("retention_check_interval", replica.retention_check_interval.as_deref());
        self.text("snapshot_interval", replica.snapshot_interval.as_deref());
        self.text("validation_interval", replica.validation_interval.as_deref());
        if let Some(age) = &replica.age {
            self.list("recipients", &age.recipients);
            self.list("identities", &age.identities);
        }
        self.unknown(&replica.rest);
    }
}

fn url(replica: &Replica) -> Option<String> {
    if let Some(url) = &replica.url {
        return (!url.starts_with("sftp:")).then(|| url.clone());
    }
    let path = replica.path.as_deref().unwrap_or_default();
    let scheme = match replica.kind.as_deref().unwrap_or("file") {
        "file" => return replica.path.clone(),
        "s3" => "s3",
        "gcs" | "gs" => "gs",
        "abs" => "az",
        _ => return None,
    };
    Some(format!("{scheme}://{}/{}", replica.bucket.as_deref()?, path.trim_start_matches('/')))
}

/// `$NAME` as `${NAME}`; a home directory as its variable.
fn braced(text: &str) -> String {
    let text = text.strip_prefix("~/").map_or_else(|| text.to_owned(), |rest| format!("${{HOME}}/{rest}"));
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some(at) = rest.find('$') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        out.push_str(before);
        let len = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        if len > 0 {
            out.push_str(&format!("${{{}}}", &after[..len]));
        } else {
            out.push('$');
        }
        rest = &after[len..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::{Config, SqliteSource};

    #[test]
    fn a_whole_file() {
        let text = convert(
            r#"
addr: ":9090"
access-key-id: AKIA
secret-access-key: $SECRET
logging: { level: debug }
dbs:
  - path: ~/app "x".db
    monitor-interval: 500ms
    max-checkpoint-page-count: 10000
    replicas:
      - url: s3://bucket/app
        retention: 72h
        age: { recipients: [age1abc], identities: ["${ID}"] }
      - type: s3
        bucket: other
        path: a/b
        region: eu-1
        endpoint: https://minio:9000
        force-path-style: true
      - path: /backup/app
      - type: sftp
        host: h
  - dir: /srv/tenants
    pattern: "*.sqlite"
    replica: { url: "gs://b/t" }
"#,
        )
        .unwrap();
        for said in ["127.0.0.1:9090", "# logging:", "# max-checkpoint-page-count:", "type sftp", "# host:"] {
            assert!(text.contains(said), "{said}: {text}");
        }
        // The replica that cannot be kept has no url: that is for a person to mend.
        let mended =
            text.replace("# a replica of type sftp cannot be kept here; name another place as url", "url = \"/x\"");
        let env = |name: &str| Some(format!("<{name}>"));
        let config = Config::parse("seawall.toml", &mended, &env).unwrap_or_else(|error| panic!("{error}\n{mended}"));
        let [one, two] = config.sqlites.as_slice() else { panic!("{text}") };
        assert_eq!(one.source, SqliteSource::File("<HOME>/app \"x\".db".into()));
        let urls: Vec<&str> = one.replicas.iter().map(|replica| replica.url.as_str()).collect();
        assert_eq!(urls, ["s3://bucket/app", "s3://other/a/b", "/backup/app", "/x"]);
        assert_eq!(one.replicas[0].recipients, ["age1abc"]);
        assert_eq!(one.replicas[0].identities, ["<ID>"]);
        assert!(one.replicas[0].store.contains(&("secret-access-key".to_owned(), "<SECRET>".to_owned())));
        assert!(one.replicas[1].store.contains(&("force-path-style".to_owned(), "true".to_owned())));
        assert!(matches!(&two.source, SqliteSource::Directory { pattern, .. } if pattern == "*.sqlite"));
        assert!(convert("dbs: 7").is_err());
    }
}
