//! The cover against counting bytes one by one, and pieces put together.

use proptest::prelude::*;

use super::*;

fn spans() -> impl Strategy<Value = Vec<Range<u64>>> {
    proptest::collection::vec((0u64..40, 0u64..12).prop_map(|(start, length)| start..start + length), 0..12)
}

/// The least number of spans that have all wanted bytes, by looking at every subset's end position.
fn fewest(spans: &[Range<u64>], wanted: &Range<u64>) -> Option<usize> {
    let mut reached = vec![wanted.start];
    for count in 0..=spans.len() {
        if reached.iter().any(|at| *at >= wanted.end) {
            return Some(count);
        }
        let next = |at: &u64| spans.iter().filter(|s| s.start <= *at && s.end > *at).map(|s| s.end).collect::<Vec<_>>();
        reached = reached.iter().flat_map(next).collect();
        reached.sort_unstable();
        reached.dedup();
    }
    None
}

proptest! {
    #[test]
    fn a_cover_is_whole_minimal_and_in_order(spans in spans(), from in 0u64..45, length in 0u64..30) {
        let wanted = from..from + length;
        let has = |byte: u64| spans.iter().any(|span| span.contains(&byte));
        match cover(&spans, wanted.clone()) {
            Ok(uses) => {
                let mut position = wanted.start;
                for used in &uses {
                    prop_assert_eq!(&used.span, &spans[used.piece]);
                    prop_assert_eq!(used.take.start, position);
                    prop_assert!(used.take.end > used.take.start);
                    prop_assert!(used.span.start <= used.take.start && used.take.end <= used.span.end);
                    position = used.take.end;
                }
                prop_assert_eq!(position.max(wanted.start), wanted.end);
                prop_assert_eq!(Some(uses.len()), fewest(&spans, &wanted));
            }
            Err(gap) => {
                prop_assert!(gap.missing.start < gap.missing.end);
                prop_assert!((wanted.start..gap.missing.start).all(has));
                prop_assert!(!gap.missing.clone().any(has));
                prop_assert!(gap.missing.end == wanted.end || has(gap.missing.end));
            }
        }
        let end = reach(&spans, from);
        prop_assert!((from..end).all(has) && !has(end));
    }

    #[test]
    fn pieces_of_one_truth_fit_in_any_order(spans in spans(), wanted in (0u64..50, 0u64..50)) {
        let truth: Vec<u8> = (0..60u8).map(|n| n.wrapping_mul(37)).collect();
        let wanted = wanted.0.min(wanted.1)..wanted.0.max(wanted.1);
        let mut assembly = Assembly::new(60);
        for span in &spans {
            assembly.add(span.start, &truth[span.start as usize..span.end as usize]).unwrap();
        }
        match (assembly.finish(wanted.clone()), cover(&spans, wanted.clone())) {
            (Ok(bytes), Ok(_)) => prop_assert_eq!(bytes, &truth[wanted.start as usize..wanted.end as usize]),
            (Err(AssemblyError::Missing(ours)), Err(theirs)) => prop_assert_eq!(ours, theirs),
            (assembled, covered) => prop_assert!(false, "{:?} and {:?}", assembled, covered),
        }
    }

    #[test]
    fn a_lie_in_an_overlap_is_found(start in 0u64..30, length in 1u64..20, other in 0u64..30, lie in 0u64..20) {
        let truth = [9u8; 64];
        let mut assembly = Assembly::new(64);
        assembly.add(start, &truth[..length as usize]).unwrap();
        let mut bytes = truth[..20].to_vec();
        bytes[lie as usize] ^= 1;
        let at = other + lie;
        let added = assembly.add(other, &bytes);
        if (start..start + length).contains(&at) {
            prop_assert_eq!(added, Err(AssemblyError::Disagree { at }));
        } else {
            prop_assert_eq!(added, Ok(()));
        }
    }
}

#[test]
fn the_whole_segment_wins_over_its_pieces() {
    let spans = [0..100, 100..200, 200..300, 0..300, 0..300];
    let uses = cover(&spans, 0..300).unwrap();
    assert_eq!(uses, [Use { piece: 3, span: 0..300, take: 0..300 }]);
    assert_eq!(reach(&spans, 0), 300);
}

#[test]
fn nothing_is_added_outside() {
    let mut assembly = Assembly::new(10);
    assert_eq!(assembly.add(8, &[1, 2, 3]), Err(AssemblyError::Outside { end: 11, length: 10 }));
    assert_eq!(assembly.add(u64::MAX, &[1]), Err(AssemblyError::Outside { end: u64::MAX, length: 10 }));
    assert_eq!(assembly.finish(0..0), Ok(Vec::new()));
    assert!(Assembly::new(u64::MAX).add(1 << 40, &[1]).is_err());
}
