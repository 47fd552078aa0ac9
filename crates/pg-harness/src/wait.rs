//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(20);

/// Calls `probe` until it answers `Some`, at most `within`. An error of the probe counts as "not yet" and is told at the deadline, so
/// that a probe may ask a server that is still starting. The probe is called once more at the deadline, so that a slow machine loses
/// no race it has won.
pub async fn wait_for<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        let late = Instant::now() >= deadline;
        let last = match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(err) => Some(err),
        };
        match last {
            Some(err) if late => return Err(err.context(format!("{what}: not within {within:?}"))),
            None if late => bail!("{what}: not within {within:?}"),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_ends_the_wait_and_the_deadline_tells_the_last_error() {
        let mut calls = 0;
        let found = wait_for("third call", Duration::from_secs(5), async || {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        });
        assert_eq!(found.await.unwrap(), 3);
        let err =
            wait_for("never", Duration::ZERO, async || -> Result<Option<()>> { bail!("refused") }).await.unwrap_err();
        assert_eq!(format!("{err:#}"), "never: not within 0ns: refused");
    }
}
