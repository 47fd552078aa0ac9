//! What S3 servers have in common: where they were installed, and how a client gets in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// How a client reaches a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Access {
    /// Where the server listens.
    pub addr: SocketAddr,
    /// The region it calls itself.
    pub region: String,
    /// An empty bucket.
    pub bucket: String,
    /// The id of a key that may do everything in the bucket.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
}

impl S3Access {
    /// The server as a URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A place in the bucket as a URL.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    /// The same bucket through another address: a proxy before it.
    pub fn through(&self, addr: SocketAddr) -> S3Access {
        S3Access { addr, ..self.clone() }
    }

    /// The environment in which a program finds the server and may enter it.
    pub fn env(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_ACCESS_KEY_ID", self.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_access_key.clone()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}

/// A file of an installed server: in `SEAWALL_SERVERS_DIR` (set by `cargo xtask test`), else in `servers` of the target folder.
pub(crate) fn installed(file: &str) -> Result<PathBuf> {
    let below = |dir: PathBuf| dir.join(file);
    let named = std::env::var_os("SEAWALL_SERVERS_DIR").map(PathBuf::from);
    let target = std::env::var_os("CARGO_TARGET_DIR").map(|dir| PathBuf::from(dir).join("servers"));
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/servers");
    let places: Vec<PathBuf> = [named, target, Some(own)].into_iter().flatten().map(below).collect();
    match places.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.clone()),
        None => bail!("{file} is not installed; run `cargo xtask test --only servers` or set SEAWALL_SERVERS_DIR"),
    }
}
