//! How long a plan takes.

use crate::{Terms, host};

/// The least time of several runs: load on the machine only ever adds.
fn seconds(instances: usize) -> f64 {
    let (desired, observed) = crate::bench_input(instances);
    let once = || {
        let start = std::time::Instant::now();
        let plan = host(&desired, &observed, &Terms::default(), crate::bench::NOW);
        let took = start.elapsed().as_secs_f64();
        assert!(plan.steps.len() > instances / 10);
        took
    };
    (0..7).map(|_| once()).fold(f64::INFINITY, f64::min)
}

#[test]
fn the_time_grows_with_the_size_not_its_square() {
    // Eight times as much: 8 when linear, 64 when quadratic. A busy machine may spoil a try.
    let ratio = || seconds(16_000) / seconds(2_000);
    let tries: Vec<f64> = (0..10).map(|_| ratio()).take_while(|ratio| *ratio > 24.0).collect();
    assert!(tries.len() < 10, "{tries:?}");
}

#[test]
#[cfg(not(debug_assertions))]
fn ten_thousand_instances_take_at_most_ten_milliseconds() {
    let best = (0..20).map(|_| seconds(10_000)).fold(f64::INFINITY, f64::min);
    println!("10,000 instances: {:.2} ms", best * 1e3);
    assert!(best <= 0.010, "{best} s");
}
