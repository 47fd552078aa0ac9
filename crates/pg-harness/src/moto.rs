//! moto, an S3 server that answers preconditions as S3 does: 412 to a PUT of what is there.
//!
//! It keeps everything in memory and checks no signature.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bin::Bin;
use crate::folder::Folder;
use crate::object_server::{S3Access, installed};
use crate::process::Process;

/// Python reads hundreds of files before it listens.
const READY_WITHIN: Duration = Duration::from_secs(120);
const BUCKET: &str = "seawall";

/// A running moto with one bucket, killed when dropped.
#[derive(Debug)]
pub struct Moto {
    _process: Process,
    access: S3Access,
}

impl Moto {
    /// Starts it on a free port and makes the bucket.
    pub async fn start(folder: &Folder) -> Result<Moto> {
        let bin = Bin::at(installed("moto/bin/moto_server")?).env("PYTHONUNBUFFERED", "1");
        let mut process = bin.spawn(folder, "moto", ["-H", "127.0.0.1", "-p", "0"])?;
        let line = process.wait_for_log("Running on http://", READY_WITHIN).await?;
        let addr = line.split_once("http://").map(|(_, addr)| addr.trim());
        let addr: SocketAddr =
            addr.and_then(|addr| addr.parse().ok()).with_context(|| format!("address in {line:?}"))?;
        let access = S3Access {
            addr,
            region: "us-east-1".to_owned(),
            bucket: BUCKET.to_owned(),
            access_key_id: "seawall".to_owned(),
            secret_access_key: "seawall".to_owned(),
        };
        make_bucket(&access).await?;
        Ok(Moto { _process: process, access })
    }

    /// How to reach its bucket.
    pub fn access(&self) -> &S3Access {
        &self.access
    }
}

async fn make_bucket(access: &S3Access) -> Result<()> {
    let mut stream = TcpStream::connect(access.addr).await?;
    let request = format!(
        "PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nAuthorization: AWS4-HMAC-SHA256 Credential=seawall/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        access.addr
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).await?;
    ensure!(answer.split(' ').nth(1) == Some("200"), "moto does not make a bucket: {answer:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::get;

    #[tokio::test]
    async fn a_server_comes_up_with_a_bucket() {
        let folder = Folder::new("moto").unwrap();
        let moto = Moto::start(&folder).await.unwrap();
        let (code, body) = get(moto.access().addr, "/seawall").await.unwrap();
        assert!(code == 200 && body.contains("ListBucketResult"), "{code} {body}");
    }
}
