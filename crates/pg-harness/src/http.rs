//! The smallest HTTP client that can read a status, written apart from ours so that the two check each other.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const RESPONSE_BYTES_MAX: u64 = 16 * 1024 * 1024;
const WITHIN: Duration = Duration::from_secs(10);

/// GETs `path` and returns the status code and the JSON of the body.
pub async fn get_json(addr: SocketAddr, path: &str) -> Result<(u16, Value)> {
    let (code, body) = get(addr, path).await?;
    let value =
        serde_json::from_str(&body).with_context(|| format!("http://{addr}{path} answered {code}: {body:?}"))?;
    Ok((code, value))
}

/// GETs `path` and returns the status code and the body.
pub async fn get(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    let answer = tokio::time::timeout(WITHIN, exchange(addr, path)).await;
    answer.with_context(|| format!("no answer from http://{addr}{path} within {WITHIN:?}"))?
}

async fn exchange(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr).await.with_context(|| format!("connect to {addr}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut bytes).await?;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(response: &str) -> Result<(u16, String)> {
    let Some((head, body)) = response.split_once("\r\n\r\n") else { bail!("not an HTTP response: {response:?}") };
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.with_context(|| format!("no status code in {head:?}"))?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read() {
        assert_eq!(parse("HTTP/1.1 503 Busy\r\na: b\r\n\r\n{}").unwrap(), (503, "{}".to_owned()));
        assert!(parse("").is_err() && parse("HTTP/1.1\r\n\r\n").is_err());
    }
}
