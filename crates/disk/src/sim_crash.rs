//! Which of the images that a power cut may leave: one by a seed, or all of them, one after another.

use crate::SimDisk;
use crate::sim_image::{Choice, Images};
use std::collections::BTreeSet;

/// A small generator (SplitMix64): the same seed gives the same crash.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// How much of what was not synced a power cut keeps.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Nothing,
    Everything,
    Some,
}

impl Mood {
    fn of(chance: &mut Chance) -> Mood {
        [Mood::Nothing, Mood::Everything, Mood::Some, Mood::Some][chance.below(4)]
    }

    /// How many of `changes` changes are kept.
    fn keep(self, changes: usize, chance: &mut Chance) -> usize {
        match self {
            Mood::Nothing => 0,
            Mood::Everything => changes,
            Mood::Some => chance.below(changes + 1),
        }
    }
}

/// The image of a seed.
pub(crate) fn by_seed(images: &mut Images, seed: u64) {
    let chance = &mut Chance(seed);
    let choices = images.choices();
    // One mood for the names, one for each file.
    let mut mood = (None, Mood::of(chance));
    let mut picks = Vec::with_capacity(choices.len());
    for choice in &choices {
        if choice.inode() != mood.0 {
            mood = (choice.inode(), Mood::of(chance));
        }
        picks.push(mood.1.keep(choice.outcomes() - 1, chance));
    }
    images.crash(&choices, &picks);
}

/// The disks that a power cut may leave, each on its own. Made by [`SimDisk::crash_images`].
#[derive(Debug)]
pub struct CrashImages {
    images: Images,
    choices: Vec<Choice>,
    plan: std::vec::IntoIter<Vec<usize>>,
    complete: bool,
}

impl CrashImages {
    pub(crate) fn new(images: Images, limit: usize) -> CrashImages {
        let choices = images.choices();
        let outcomes: Vec<usize> = choices.iter().map(Choice::outcomes).collect();
        let all = outcomes.iter().try_fold(1usize, |all, count| all.checked_mul(*count));
        let complete = all.is_some_and(|all| all <= limit);
        let plan = if complete { every_pick(&outcomes) } else { some_picks(&choices, &outcomes, limit) };
        CrashImages { images, choices, plan: plan.into_iter(), complete }
    }

    /// Whether these are all images there can be.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Iterator for CrashImages {
    type Item = SimDisk;

    fn next(&mut self) -> Option<SimDisk> {
        let picks = self.plan.next()?;
        let mut images = self.images.clone();
        images.crash(&self.choices, &picks);
        Some(SimDisk::of(images))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.plan.size_hint()
    }
}

/// Every combination of outcomes.
fn every_pick(outcomes: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for count in outcomes {
        all = all.iter().flat_map(|picks| (0..*count).map(move |pick| [picks.as_slice(), &[pick]].concat())).collect();
    }
    all
}

/// At most `limit` combinations where there are too many: nothing and everything kept, with all combinations of the names (or
/// each of them alone); each file alone kept or lost; what a disk that writes in order, or in reverse, leaves; every change alone
/// kept or lost; and others by chance. Where even these are more, evenly spread ones of them.
fn some_picks(choices: &[Choice], outcomes: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let last: Vec<usize> = outcomes.iter().map(|count| count - 1).collect();
    let pick = |keep: &dyn Fn(usize) -> bool| -> Vec<usize> {
        last.iter().enumerate().map(|(index, last)| if keep(index) { *last } else { 0 }).collect()
    };
    let names = choices.iter().take_while(|choice| choice.inode().is_none()).count();
    let mut picks: BTreeSet<Vec<usize>> = BTreeSet::from([pick(&|_| false), pick(&|_| true)]);
    if names < usize::BITS as usize && 1usize << names <= limit / 4 {
        for combination in 0..1usize << names {
            let kept = |index: usize| combination >> index & 1 == 1;
            picks.insert(pick(&|index| index < names && kept(index)));
            picks.insert(pick(&|index| index >= names || kept(index)));
        }
    }
    let files: BTreeSet<Option<u64>> = choices.iter().map(Choice::inode).collect();
    for file in files {
        picks.insert(pick(&|index| choices[index].inode() == file));
        picks.insert(pick(&|index| choices[index].inode() != file));
    }
    let mut systematic = Vec::new();
    for at in 0..choices.len() {
        systematic.push(pick(&|index| index < at));
        systematic.push(pick(&|index| index >= at));
        systematic.push(pick(&|index| index == at));
        systematic.push(pick(&|index| index != at));
        // Half kept, where a change has outcomes between none and all.
        systematic
            .push(last.iter().enumerate().map(|(i, last)| if i == at { last.div_ceil(2) } else { *last }).collect());
    }
    let room = (limit * 3 / 4).saturating_sub(picks.len()).max(1);
    let step = systematic.len().div_ceil(room).max(1);
    picks.extend(systematic.into_iter().step_by(step));
    let chance = &mut Chance(limit as u64);
    for _ in 0..limit {
        if picks.len() >= limit {
            break;
        }
        picks.insert(outcomes.iter().map(|count| chance.below(*count)).collect());
    }
    picks.into_iter().take(limit.max(2)).collect()
}
