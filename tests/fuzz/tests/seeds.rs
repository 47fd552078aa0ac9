//! Every target over its seeds, and over plain mutations of them: truncated, bits flipped, runs repeated, lengths blown up.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs;

/// Mutations of each seed.
const MUTATIONS: usize = 300;
/// What lengths and counts are blown up to.
const EXTREMES: [&[u8]; 6] =
    [&[0; 4], &[0xff; 4], &[0x7f, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0x7f], &[0xff; 8], &[0; 8]];

fn mutate(seed: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = rng.random(),
            3 => {
                let run = bytes[at..(at + rng.random_range(1..64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, run);
            }
            4 => {
                let extreme = EXTREMES[rng.random_range(0..EXTREMES.len())];
                let end = (at + extreme.len()).min(bytes.len());
                bytes.splice(at..end, extreme.iter().copied());
            }
            _ => drop(bytes.drain(at..(at + rng.random_range(1..16)).min(bytes.len()))),
        }
    }
    bytes
}

#[test]
fn every_target_takes_its_seeds_and_what_is_near_them() {
    for target in fuzz::TARGETS {
        let folder = fuzz::seeds(target.name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} has no seeds", target.name);
        for path in paths {
            let seed = fs::read(&path).unwrap();
            (target.run)(&seed);
            let mut rng = StdRng::seed_from_u64(seed.len() as u64);
            for round in 0..MUTATIONS {
                let bytes = mutate(&seed, &mut rng);
                let outcome = std::panic::catch_unwind(|| (target.run)(&bytes));
                assert!(outcome.is_ok(), "{}: mutation {round} of {} fails: {bytes:02x?}", target.name, path.display());
            }
        }
    }
}

#[test]
fn no_bytes_are_bytes_too() {
    for target in fuzz::TARGETS {
        (target.run)(&[]);
        (target.run)(&[0]);
    }
}
