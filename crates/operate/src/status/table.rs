//! A [`Report`] as text for a terminal.

use super::report::{ClusterReport, Report, SafekeeperReport};
use std::fmt::{self, Display, Formatter};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for cluster in &self.clusters {
            write_cluster(f, cluster)?;
        }
        if self.clusters.is_empty() {
            writeln!(f, "UNPROTECTED: no cluster is known to the parts that answered")?;
        }
        for problem in &self.problems {
            writeln!(f, "no answer: {problem}")?;
        }
        Ok(())
    }
}

fn write_cluster(f: &mut Formatter<'_>, cluster: &ClusterReport) -> fmt::Result {
    let verdict = if cluster.protected { "PROTECTED" } else { "UNPROTECTED" };
    writeln!(f, "{}  {verdict}", cluster.name)?;
    for reason in &cluster.reasons {
        writeln!(f, "  why      {}", reason.text)?;
    }
    if !cluster.protected && cluster.reasons.is_empty() {
        writeln!(f, "  why      the proposer is {}", if cluster.state.is_empty() { "silent" } else { &cluster.state })?;
    }
    for warning in &cluster.warnings {
        writeln!(f, "  note     {}", warning.text)?;
    }
    if let Some(primary) = &cluster.primary {
        let version = primary
            .version_num
            .map(|num| format!("  PostgreSQL {}.{}", num / 10_000, num % 10_000))
            .unwrap_or_default();
        let tli = primary.tli.map(|tli| format!("  TLI {tli}")).unwrap_or_default();
        writeln!(f, "  primary  {}{version}{tli}", primary.address.as_deref().unwrap_or("?"))?;
    }
    let commit = cluster.commit_lsn.as_deref().unwrap_or("none yet");
    let term = cluster.term.map(|term| format!("  term {term}")).unwrap_or_default();
    writeln!(f, "  commit   {commit}{term}")?;
    if let Some(archive) = &cluster.archive {
        let behind = archive.lag_bytes.map(|bytes| format!("  behind {}", size(bytes))).unwrap_or_default();
        let lost = archive.lost.as_ref().map(|lost| format!("  lacks {lost}, which is gone here too: take a backup"));
        let problem = archive.problem.as_ref().map(|problem| format!("  {problem}"));
        let archived = archive.archived_lsn.as_deref().unwrap_or("?");
        writeln!(
            f,
            "  archive  {archived}{behind}  {}{}{}",
            archive.url,
            problem.unwrap_or_default(),
            lost.unwrap_or_default()
        )?;
    }
    if cluster.safekeepers.is_empty() {
        return Ok(());
    }
    let header = ["safekeeper", "address", "state", "flush", "behind"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(cluster.safekeepers.iter().map(cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!(" {cell:<width$} "));
        }
        let trouble =
            index.checked_sub(1).and_then(|index| cluster.safekeepers[index].error.as_deref()).unwrap_or_default();
        writeln!(f, "{}", format!("{line} {trouble}").trim_end())?;
    }
    Ok(())
}

fn cells(safekeeper: &SafekeeperReport) -> [String; 5] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        or_dash(safekeeper.node_id.map(|id| id.to_string())),
        safekeeper.address.clone(),
        safekeeper.state.clone(),
        or_dash(safekeeper.flush_lsn.clone()),
        or_dash(safekeeper.lag_bytes.map(size)),
    ]
}

/// Bytes for people: `0 B`, `1.5 MiB`.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64.0 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
