//! The recorder behind the `metrics` facade.

use std::convert::Infallible;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper bounds, in seconds, of every histogram whose name ends in `_seconds`: from a sync into a battery-backed cache (50 µs) over
/// disks (10 ms) to a device in trouble (10 s), three steps a decade.
pub const LATENCY_BUCKETS_SECONDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How often [`Metrics::upkeep`] folds what histograms gathered. Between two of these they grow by 8 bytes a sample.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The process has a recorder already, or cannot have one.
#[derive(Debug, thiserror::Error)]
#[error("cannot install the metrics recorder: {0}")]
pub struct InstallError(String);

/// What was counted and measured in this process. Clones show the same.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(…)")
    }
}

impl Metrics {
    /// Makes the recorder and installs it for the process. Once a process, before the first metric.
    pub fn install() -> Result<Metrics, InstallError> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|err| InstallError(err.to_string()))?;
        Ok(Metrics(handle))
    }

    /// Everything, in Prometheus's text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Runs for ever beside [`serve`](crate::serve) and keeps histograms small while nobody scrapes. Needs a tokio runtime with time.
    pub async fn upkeep(self) -> Infallible {
        let mut every = tokio::time::interval(UPKEEP_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.0.run_upkeep();
        }
    }
}

fn recorder() -> Result<PrometheusRecorder, InstallError> {
    let latencies = Matcher::Suffix("_seconds".to_owned());
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(latencies, &LATENCY_BUCKETS_SECONDS)
        .map_err(|err| InstallError(err.to_string()))?;
    Ok(builder.build_recorder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_buckets_and_counters_count() {
        let recorder = recorder().unwrap();
        let metrics = Metrics(recorder.handle());
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("fsync_seconds", "cluster" => "a").record(0.003);
            metrics::counter!("bytes_total").increment(7);
        });
        let text = metrics.render();
        assert!(text.contains("fsync_seconds_bucket{cluster=\"a\",le=\"0.0025\"} 0"), "{text}");
        assert!(text.contains("fsync_seconds_bucket{cluster=\"a\",le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("bytes_total 7"), "{text}");
    }

    #[test]
    fn bounds_rise() {
        assert!(LATENCY_BUCKETS_SECONDS.is_sorted_by(|a, b| a < b));
    }
}
