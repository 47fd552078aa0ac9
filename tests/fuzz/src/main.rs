//! The fuzzer's program: runs the target that `SEAWALL_FUZZ_TARGET` names.
#![no_main]

use std::sync::OnceLock;

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("SEAWALL_FUZZ_TARGET").unwrap_or_default();
        let target = fuzz::target(&name).unwrap_or_else(|| {
            let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            panic!("SEAWALL_FUZZ_TARGET names no target; there are: {}", names.join(", "))
        });
        RUN.get_or_init(|| target.run);
    },
    |data: &[u8]| {
        if let Some(run) = RUN.get() {
            run(data);
        }
    }
);
