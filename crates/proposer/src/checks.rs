//! Whether the primary's commits wait for us, asked over SQL; and whether it is still the server the stream comes from.

use crate::driver::Driver;
use crate::primary;
use pg_source::{Assessment, Checks, Error, Facts, Settings};
use std::rc::Rc;
use std::time::Duration;

/// How often the primary's settings are read.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
/// How soon a lost SQL connection is made again: until then nobody knows whether commits wait for us.
const RECONNECT: Duration = Duration::from_secs(1);

/// Judges settings and shows the judgement. `streaming` is given once the slot is held.
pub(crate) fn assess(driver: &Rc<Driver>, source: &pg_source::Options, settings: &Settings, streaming: Option<&Facts>) {
    let commit = driver.leader().commit();
    let assessment = pg_source::assess(settings, &primary::observer(source, streaming, commit));
    driver.set_assessment(assessment);
}

/// Checks every 10 s while the stream runs, and hears of a shutdown.
///
/// # Errors
/// The server is no longer the one we stream from. Losing the SQL connection is no error: what cannot be asked is unverified,
/// and it is connected anew.
pub(crate) async fn watch(
    driver: &Rc<Driver>,
    id: u64,
    source: &pg_source::Options,
    facts: &Facts,
    checks: Checks,
) -> Result<(), Error> {
    let mut checks = Some(checks);
    loop {
        let lost = match &mut checks {
            Some(open) => tokio::select! {
                biased;
                error = open.ended() => Some(error),
                () = tokio::time::sleep(INTERVAL) => open.prove(facts).await.map_or_else(Some, |settings| {
                    assess(driver, source, &settings, Some(facts));
                    None
                }),
            },
            None => {
                tokio::time::sleep(RECONNECT).await;
                match reconnect(source, facts).await {
                    Ok((settings, opened)) => {
                        // A server that shuts down lets nobody in: somebody ended that one connection.
                        driver.primary_event(id, |leader, _| leader.handle_primary_stays());
                        assess(driver, source, &settings, Some(facts));
                        checks = Some(opened);
                        None
                    }
                    Err(error) => Some(error),
                }
            }
        };
        match lost {
            None => {}
            Some(error @ Error::DifferentServers(_)) => return Err(error),
            Some(error) => {
                if matches!(error, Error::ShuttingDown) {
                    tracing::info!(cluster = driver.name(), "the primary is shutting down");
                    driver.primary_event(id, |leader, now| leader.handle_primary_shutdown(now));
                }
                driver.set_assessment(Assessment::unverified(&error.to_string()));
                checks = None;
            }
        }
    }
}

/// A new SQL connection to the same server.
async fn reconnect(source: &pg_source::Options, facts: &Facts) -> Result<(Settings, Checks), Error> {
    let attached = pg_source::attach(source).await?;
    let mut checks = attached.checks;
    let settings = checks.prove(facts).await?;
    Ok((settings, checks))
}
