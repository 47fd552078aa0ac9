//! [`Graph`]: who must come before whom, and whether that goes round in a circle.
//!
//! Nodes below `count` are transactions. Real time would need an edge from every end to every later beginning; a chain of
//! moments, one for each end, says the same with three edges a transaction.

use std::collections::VecDeque;

const UNSEEN: usize = usize::MAX;

/// Nodes and reasons.
pub(crate) struct Graph {
    count: usize,
    edges: Vec<Vec<(usize, Why)>>,
}

/// Why one comes before the other.
enum Why {
    Seen(String),
    Time,
}

impl Graph {
    pub(crate) fn new(count: usize) -> Graph {
        Graph { count, edges: (0..count).map(|_| Vec::new()).collect() }
    }

    /// `from` comes before `to`, unless they are the same.
    pub(crate) fn edge(&mut self, from: usize, to: usize, why: impl FnOnce() -> String) {
        if from != to {
            self.edges[from].push((to, Why::Seen(why())));
        }
    }

    /// Whoever ended before another one began comes before it. Of each: who, began, ended (never, as far as anybody knows).
    pub(crate) fn real_time(&mut self, all: impl Iterator<Item = (usize, u64, Option<u64>)>) {
        let mut events: Vec<(u64, usize, bool)> = Vec::new();
        for (index, began, ended) in all {
            events.push((began, index, false));
            events.extend(ended.map(|ended| (ended, index, true)));
        }
        events.sort_unstable();
        let mut moment = None;
        for (_, index, is_end) in events {
            if is_end {
                let next = self.edges.len();
                self.edges.push(Vec::new());
                self.edges[index].push((next, Why::Time));
                if let Some(before) = moment {
                    let edges: &mut Vec<(usize, Why)> = &mut self.edges[before];
                    edges.push((next, Why::Time));
                }
                moment = Some(next);
            } else if let Some(moment) = moment {
                self.edges[moment].push((index, Why::Time));
            }
        }
    }

    /// A short circle, if there is one: each transaction on it and why it comes before the next.
    pub(crate) fn circle(&self) -> Option<Vec<(usize, String)>> {
        let left = self.on_circles();
        // Of those that cannot be put in any order, somebody is on a circle: the first one found by its shortest way back.
        (0..self.count).filter(|node| left[*node]).find_map(|start| self.way_back(start, &left))
    }

    /// Takes away whoever has nobody before them, again and again: who is left is on a circle, or behind one.
    fn on_circles(&self) -> Vec<bool> {
        let mut before = vec![0_usize; self.edges.len()];
        for (to, _) in self.edges.iter().flatten() {
            before[*to] += 1;
        }
        let mut free: Vec<usize> = (0..self.edges.len()).filter(|node| before[*node] == 0).collect();
        let mut left = vec![true; self.edges.len()];
        while let Some(node) = free.pop() {
            left[node] = false;
            for (to, _) in &self.edges[node] {
                before[*to] -= 1;
                if before[*to] == 0 {
                    free.push(*to);
                }
            }
        }
        left
    }

    fn way_back(&self, start: usize, within: &[bool]) -> Option<Vec<(usize, String)>> {
        let mut came_from = vec![(UNSEEN, 0); self.edges.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for (place, (to, _)) in self.edges[node].iter().enumerate() {
                if *to == start {
                    return Some(self.tell(start, node, place, &came_from));
                }
                if within[*to] && came_from[*to].0 == UNSEEN {
                    came_from[*to] = (node, place);
                    queue.push_back(*to);
                }
            }
        }
        None
    }

    fn tell(&self, start: usize, last: usize, place: usize, came_from: &[(usize, usize)]) -> Vec<(usize, String)> {
        let mut steps = vec![(last, place)];
        let mut node = last;
        while node != start {
            let (from, place) = came_from[node];
            steps.push((from, place));
            node = from;
        }
        steps.reverse();
        let why = |node: usize, place: usize| match &self.edges[node][place].1 {
            Why::Seen(why) => why.clone(),
            Why::Time => "ended before the beginning of".to_owned(),
        };
        steps.into_iter().filter(|(node, _)| *node < self.count).map(|(node, place)| (node, why(node, place))).collect()
    }
}
