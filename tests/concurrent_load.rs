//! The first models of a process may be loaded at the same time, as a server does when it starts.

mod support;

use std::{sync::Barrier, thread};

use support::{Artifact, fixture, runtime_library};
use textgen_convert::Precision;
use triton_textgen::model::Runtime;

#[test]
fn first_models_load_side_by_side() {
    let artifact = Artifact::convert(&fixture("t5/t5"), Precision::Fp32).unwrap();
    // Loading the library takes turns; what must not is all that follows.
    Runtime::load(&runtime_library()).unwrap();
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                artifact.executor(1, 1);
            });
        }
    });
}
