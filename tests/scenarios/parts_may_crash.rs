//! No acknowledged commit is lost when any part crashes, and the safekeepers keep the same bytes.

use std::time::Duration;

use pg_harness::scenario;
use scenarios::Rounds;

const ROUNDS: u32 = 15;
/// Any number will do; this one is kept so that a failure is looked for in the same plan.
const SEED: u64 = 15;

/// Goal: whatever is killed with -9 or hangs, no acknowledged row is missing, committed bytes are equal on all safekeepers, and
/// PostgreSQL's own tools can read them. Method: rounds of blows under load, safekeepers, two proposers and the primary in seeded order,
/// at last all at once; after each the rows and the bytes; `pg_waldump` at the end. `cargo xtask soak` runs the same for longer.
#[test]
fn any_part_crashes_at_any_time() {
    scenario("rounds", Duration::from_secs(180), async |folder| {
        let mut rounds = Rounds::begin(&folder, SEED).await?;
        for _ in 1..ROUNDS {
            rounds.round().await?;
        }
        let (_, outcome) = rounds.end().await?;
        outcome.expect_proof()
    });
}
