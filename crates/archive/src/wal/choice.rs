//! Who uploads: every safekeeper answers alone, from what it heard of the others, and nobody has to agree.

use lsn::{Lsn, NodeId, SegmentSize};

/// A safekeeper that is alive, as another one knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub node: NodeId,
    /// The end of what it knows to be committed and has on its disk.
    pub commit: Lsn,
}

/// The lowest number among those whose commit LSN is within a segment of the best. Two that heard different things may both take
/// themselves for it; that costs requests and harms nothing.
pub fn uploader(candidates: impl IntoIterator<Item = Candidate> + Clone, segment_size: SegmentSize) -> Option<NodeId> {
    let best = candidates.clone().into_iter().map(|candidate| candidate.commit).max()?;
    let near = |candidate: &Candidate| best.bytes_since(candidate.commit) <= segment_size.bytes();
    candidates.into_iter().filter(near).map(|candidate| candidate.node).min()
}

/// Whether `own` is to upload, given the live others.
pub fn is_uploader(own: Candidate, others: &[Candidate], segment_size: SegmentSize) -> bool {
    uploader(others.iter().copied().chain([own]).collect::<Vec<_>>(), segment_size) == Some(own.node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(node: u64, commit: u64) -> Candidate {
        Candidate { node: NodeId(node), commit: Lsn(commit) }
    }

    #[test]
    fn the_lowest_of_those_near_the_best() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let two = candidate(2, 5 << 20);
        assert!(is_uploader(two, &[], size), "alone");
        assert!(!is_uploader(two, &[candidate(1, 5 << 20)], size));
        assert!(!is_uploader(two, &[candidate(1, 4 << 20)], size), "a segment behind is near");
        assert!(is_uploader(two, &[candidate(1, (4 << 20) - 1)], size), "more is not");
        assert!(is_uploader(two, &[candidate(3, 5 << 20)], size));
    }

    proptest! {
        /// Who heard the same chooses the same, and it is exactly one.
        #[test]
        fn exactly_one_uploads(commits in proptest::collection::vec(0u64..(4 << 20), 1..6)) {
            let size = SegmentSize::new(1 << 20).unwrap();
            let all: Vec<Candidate> = commits.iter().zip(1..).map(|(commit, node)| candidate(node, *commit)).collect();
            let chosen = all.iter().filter(|own| {
                let others: Vec<Candidate> = all.iter().filter(|other| other.node != own.node).copied().collect();
                is_uploader(**own, &others, size)
            });
            prop_assert_eq!(chosen.count(), 1);
        }
    }
}
