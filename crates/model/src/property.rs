//! The properties: their names, and sets of them.

/// What must hold in every world. The numbers are those of `docs/durability.md`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is described where its name is")]
pub enum Property {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S8,
    S9,
    S10,
    S11,
    S12,
    S13,
    S15,
    S16,
    S17,
    S18,
    S19,
    S25,
    S26,
    S27,
    S28,
    S29,
    S30,
    S31,
    S33,
    Progress,
    Sound,
}

use Property::*;

/// All of them, with what each says.
pub const PROPERTIES: &[(Property, &str)] = &[
    (S1, "S1: a term is won at most once"),
    (S2, "S2: the term of a safekeeper never falls, across restarts too"),
    (S3, "S3: no term is promised twice by one safekeeper"),
    (S4, "S4: a vote leaves when its term is durable"),
    (S5, "S5: two logs that know a term agree where it began"),
    (S6, "S6: two logs of the same term hold the same bytes"),
    (S7, "S7: a commit LSN never falls"),
    (S8, "S8: commit LSN <= flush LSN, both at the end of a record"),
    (S9, "S9: committed bytes are never others, and never cut"),
    (S10, "S10: a later term starts at or above every earlier commit"),
    (S11, "S11: nothing below the term's start is counted"),
    (S12, "S12: no cut below the commit LSN"),
    (S13, "S13: what was acknowledged or told is durable"),
    (S15, "S15: nothing is written between start-up and the first Elected"),
    (S16, "S16: writes have no gap and no overlap"),
    (S17, "S17: a message of another generation changes nothing"),
    (S18, "S18: elections and commits have a majority of every set"),
    (S19, "S19: a generation never falls"),
    (S25, "S25: terms of a history rise, their starts do not fall"),
    (S26, "S26: one term, one connection, one path"),
    (S27, "S27: bytes below the flush LSN lie on the stored path"),
    (S28, "S28: a TLI is shown only once something on it is committed"),
    (S29, "S29: an answer to a primary is committed in its own term, on its TLI"),
    (S30, "S30: nobody is elected against a fence that stands"),
    (S31, "S31: emptied, foreign and damaged disks do not vote"),
    (S33, "S33: one record per generation"),
    (Progress, "progress: whoever is up, if a majority is, can commit"),
    (Sound, "sound: no assertion of the code fails"),
];

/// A set of properties.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Set(u64);

impl Set {
    /// All there are.
    pub const ALL: Set = Set(u64::MAX);

    /// Only this one.
    pub fn of(property: Property) -> Set {
        Set(1 << property as u8)
    }

    /// Whether it is in here.
    pub fn has(self, property: Property) -> bool {
        self.0 & Set::of(property).0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in both.
    pub fn and(self, other: Set) -> Set {
        Set(self.0 & other.0)
    }

    /// Puts it in unless `holds`.
    pub(crate) fn require(&mut self, holds: bool, property: Property) {
        if !holds {
            self.0 |= Set::of(property).0;
        }
    }
}
