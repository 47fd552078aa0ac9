//! Garage, a real S3 server, on one node with one bucket.
//!
//! Its PUT does what it is told whatever the preconditions say: it stands for the stores that cannot create-if-absent.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::bin::Bin;
use crate::folder::Folder;
use crate::http::get;
use crate::object_server::{S3Access, installed};
use crate::postgres::free_port;
use crate::process::Process;

const READY_WITHIN: Duration = Duration::from_secs(60);
const START_ATTEMPTS: u32 = 5;
const BUCKET: &str = "seawall";
// Garage takes keys of its own form only: GK and 24 hex digits, and 64 hex digits.
const ACCESS_KEY_ID: &str = "GK5ea3a115ea3a115ea3a115ea";
const SECRET_ACCESS_KEY: &str = "5ea3a115ea3a115ea3a115ea3a115ea35ea3a115ea3a115ea3a115ea3a115ea3";

/// A running Garage with data in the test's folder, killed when dropped.
#[derive(Debug)]
pub struct Garage {
    process: Process,
    access: S3Access,
}

impl Garage {
    /// Starts it and makes the bucket.
    pub async fn start(folder: &Folder) -> Result<Garage> {
        let bin = Bin::at(installed("bin/garage")?)
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY_ID)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET_ACCESS_KEY)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .env("RUST_LOG", "garage=info");
        // It cannot tell which port it took, so it is given free ones; somebody else may be quicker.
        for attempt in 1.. {
            let config = folder.sub("garage")?.join("garage.toml");
            let (rpc, s3, admin) = (local(free_port()?), local(free_port()?), local(free_port()?));
            fs::write(&config, configuration(folder, rpc, s3, admin))?;
            let args = ["-c".to_owned(), config.display().to_string()];
            let args = args.into_iter().chain(["server", "--single-node", "--default-bucket"].map(str::to_owned));
            let mut process = bin.spawn(folder, "garage", args)?;
            match wait_ready(&mut process, admin).await {
                Ok(()) => {
                    let access = S3Access {
                        addr: s3,
                        region: "garage".to_owned(),
                        bucket: BUCKET.to_owned(),
                        access_key_id: ACCESS_KEY_ID.to_owned(),
                        secret_access_key: SECRET_ACCESS_KEY.to_owned(),
                    };
                    return Ok(Garage { process, access });
                }
                Err(_) if attempt < START_ATTEMPTS && process.log()?.contains("in use") => process.kill()?,
                Err(error) => return Err(error),
            }
        }
        bail!("unreachable: the last attempt returns")
    }

    /// How to reach its bucket.
    pub fn access(&self) -> &S3Access {
        &self.access
    }

    /// The process, to be stopped and started again: its ports and data stay.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Ready is when the bucket is there: the S3 port is opened after it was made.
async fn wait_ready(process: &mut Process, admin: SocketAddr) -> Result<()> {
    process.wait_for_log("S3 API server listening", READY_WITHIN).await?;
    crate::wait_for("a healthy Garage", READY_WITHIN, async || {
        Ok(matches!(get(admin, "/health").await?, (200, _)).then_some(()))
    })
    .await
}

fn configuration(folder: &Folder, rpc: SocketAddr, s3: SocketAddr, admin: SocketAddr) -> String {
    let dir = folder.path().join("garage");
    let dir = dir.display();
    format!(
        r#"metadata_dir = "{dir}/meta"
data_dir = "{dir}/data"
db_engine = "sqlite"
metadata_fsync = false
data_fsync = false
replication_factor = 1
rpc_bind_addr = "{rpc}"
rpc_public_addr = "{rpc}"
rpc_secret = "{SECRET_ACCESS_KEY}"

[s3_api]
s3_region = "garage"
api_bind_addr = "{s3}"
root_domain = ".s3.localhost"

[admin]
api_bind_addr = "{admin}"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_comes_up_and_wants_a_key() {
        let folder = Folder::new("garage").unwrap();
        let mut garage = Garage::start(&folder).await.unwrap();
        let (code, body) = get(garage.access().addr, "/seawall").await.unwrap();
        assert_eq!(code, 403, "{body}");
        garage.process().kill().unwrap();
        assert!(get(garage.access().addr, "/seawall").await.is_err());
        garage.process().start().unwrap();
        let again = crate::wait_for("the same port", READY_WITHIN, async || {
            Ok((get(garage.access().addr, "/seawall").await?.0 == 403).then_some(()))
        });
        again.await.unwrap();
    }
}
