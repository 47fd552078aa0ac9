//! Which cluster to lead: the one a majority of the safekeepers knows.

use crate::error::Error;
use crate::safekeeper::LogStatus;
use lsn::ClusterId;
use std::collections::BTreeMap;

/// The cluster that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) id: ClusterId,
    pub(crate) name: String,
}

/// Judges one round of answers, one for each safekeeper in the order of `addresses`. `Ok(Err(sentence))` means: ask again later.
pub(crate) fn judge(
    addresses: &[&str],
    answers: &[Result<LogStatus, String>],
    wanted: Option<&str>,
) -> Result<Result<Found, String>, Error> {
    let majority = |count: usize| count > addresses.len() / 2;
    let answered = answers.iter().filter(|answer| answer.is_ok()).count();
    if !majority(answered) {
        let failures = addresses
            .iter()
            .zip(answers)
            .filter_map(|(address, answer)| answer.as_ref().err().map(|reason| format!("{address}: {reason}")));
        let failures: Vec<String> = failures.collect();
        return Ok(Err(format!("waiting for a majority of the safekeepers ({})", failures.join("; "))));
    }
    // Who knows which cluster, by name and id.
    let mut known: BTreeMap<(String, ClusterId), Vec<&str>> = BTreeMap::new();
    for (address, answer) in addresses.iter().zip(answers) {
        for row in answer.iter().flat_map(|status| &status.rows) {
            if wanted.is_none_or(|name| name == row.name) {
                known.entry((row.name.clone(), row.cluster)).or_default().push(address);
            }
        }
    }
    let mut names: Vec<String> = known.keys().map(|(name, _)| name.clone()).collect();
    names.dedup();
    let name = match (names.as_slice(), wanted) {
        ([], Some(name)) => {
            return Ok(Err(format!("no safekeeper knows cluster {name}: make it known with `seawall init`")));
        }
        ([], None) => return Ok(Err("the safekeepers know no cluster: make one known with `seawall init`".to_owned())),
        ([name], _) => name.clone(),
        (_, _) => return Err(Error::SeveralClusters(names)),
    };
    let agreed = known.iter().find(|(_, who)| majority(who.len()));
    match agreed {
        Some(((_, id), _)) => Ok(Ok(Found { id: *id, name })),
        // Answers that are still missing cannot make different ids equal.
        None if known.len() > 1 && answered == addresses.len() => {
            let ids = known.iter().map(|((_, id), who)| format!("{id} on {}", who.join(" and "))).collect();
            Err(Error::Disagreement { name, ids })
        }
        None => {
            let who: Vec<&str> = known.values().flatten().copied().collect();
            Ok(Err(format!(
                "only {} of {} safekeepers know cluster {name} ({})",
                who.len(),
                addresses.len(),
                who.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{Membership, TermHistory};
    use lsn::{DiskId, Lsn, NodeId, SystemId, Term};
    use quorum_proto::{LogState, LogStatusRow};

    const ADDRESSES: [&str; 3] = ["a:1", "b:1", "c:1"];

    fn knows(clusters: &[(&str, u8)]) -> Result<LogStatus, String> {
        let row = |&(name, id): &(&str, u8)| LogStatusRow {
            node: NodeId(1),
            disk: DiskId([1; 16]),
            name: name.to_owned(),
            cluster: ClusterId { tenant: [id; 16], timeline: [id; 16] },
            state: LogState::Member,
            term: Term(0),
            last_log_term: Term(0),
            flush: Lsn(0),
            commit: Lsn(0),
            history: TermHistory::empty(),
            path: None,
            membership: Membership::none(),
            fence: None,
            leader_silent_ms: None,
            system_id: SystemId(0),
            segment_size: 0,
            pg_version: 0,
            version: 1,
        };
        Ok(LogStatus { node: Some(NodeId(1)), rows: clusters.iter().map(row).collect() })
    }

    fn gone() -> Result<LogStatus, String> {
        Err("connection refused".to_owned())
    }

    #[test]
    fn a_majority_that_agrees_is_enough() {
        let found =
            judge(&ADDRESSES, &[knows(&[("orders", 1)]), gone(), knows(&[("orders", 1)])], None).unwrap().unwrap();
        assert_eq!(found, Found { id: ClusterId { tenant: [1; 16], timeline: [1; 16] }, name: "orders".to_owned() });
    }

    #[test]
    fn without_a_majority_it_waits_and_says_for_whom() {
        let waiting = judge(&ADDRESSES, &[knows(&[("orders", 1)]), gone(), gone()], None).unwrap().unwrap_err();
        assert!(waiting.contains("b:1: connection refused; c:1: connection refused"), "{waiting}");
        let half = judge(&ADDRESSES, &[knows(&[("orders", 1)]), knows(&[]), gone()], None).unwrap().unwrap_err();
        assert_eq!(half, "only 1 of 3 safekeepers know cluster orders (a:1)");
    }

    #[test]
    fn nobody_knows_anything() {
        let none = || [knows(&[]), knows(&[]), knows(&[])];
        assert!(judge(&ADDRESSES, &none(), None).unwrap().unwrap_err().contains("seawall init"));
        assert!(judge(&ADDRESSES, &none(), Some("orders")).unwrap().unwrap_err().contains("cluster orders"));
    }

    #[test]
    fn several_clusters_need_a_choice() {
        let both = || knows(&[("orders", 1), ("users", 2)]);
        let error = judge(&ADDRESSES, &[both(), both(), both()], None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the safekeepers keep several clusters; choose one with --cluster: orders, users"
        );
        assert_eq!(error.exit_kind(), crate::ExitKind::Usage);
        let found = judge(&ADDRESSES, &[both(), both(), both()], Some("users")).unwrap().unwrap();
        assert_eq!(found.name, "users");
    }

    #[test]
    fn one_name_for_different_clusters_is_refused() {
        let answers = [knows(&[("orders", 1)]), knows(&[("orders", 2)]), knows(&[("orders", 3)])];
        let error = judge(&ADDRESSES, &answers, Some("orders")).unwrap_err();
        assert_eq!(error.exit_kind(), crate::ExitKind::Refused);
        // Of two racing creations one may have won a majority.
        let answers = [knows(&[("orders", 1)]), knows(&[("orders", 2)]), knows(&[("orders", 2)])];
        assert_eq!(judge(&ADDRESSES, &answers, None).unwrap().unwrap().id.tenant, [2; 16]);
    }
}
