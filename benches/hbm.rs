//! Host speed of the exact HBM channel: bursts per second by pattern.
//!
//! `cargo bench --bench hbm`. Criterion's throughput is requests per second of one channel on one core.
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tilewright::chip::{HbmDevice, Refresh};
use tilewright::timing::hbm::controller::{Config, Controller};
use tilewright::timing::hbm::device::Geometry;
use tilewright::timing::hbm::mapping::Mapping;
use tilewright::timing::hbm::patterns::{Pattern, Source};
use tilewright::timing::hbm::run::{Injection, Outcome, Run};

const REQUESTS: u64 = 200_000;

fn run(d: &HbmDevice, pattern: Pattern, arg: u64, mapping: &str, refresh: Refresh) -> Outcome {
    let geometry = Geometry::new(d);
    let mapping = Mapping::parse(mapping, geometry).unwrap();
    let config = Config {
        refresh,
        ..Config::default()
    };
    let run = Run {
        device: d,
        mapping: &mapping,
        injection: Injection::Saturating,
        check: false,
        dense: false,
        requests: REQUESTS,
    };
    let source = Source::Pattern(pattern.generate(arg, &geometry).unwrap());
    run.go(Controller::new(d, config), source, None).unwrap()
}

fn patterns(c: &mut Criterion) {
    let mut group = c.benchmark_group("channel");
    group.throughput(Throughput::Elements(REQUESTS));
    group.sample_size(10);
    for (device, pattern, arg, mapping, refresh) in [
        ("hbm3-6400", Pattern::SeqRd, 1, "M1", Refresh::None),
        ("hbm3-6400", Pattern::SeqWr, 1, "M1", Refresh::None),
        ("hbm3-6400", Pattern::Rand, 1, "M1", Refresh::None),
        ("hbm3-6400", Pattern::Rand, 32, "M5", Refresh::None),
        ("hbm3-6400", Pattern::Mix21, 1, "M1", Refresh::None),
        ("hbm3e-9132", Pattern::SeqRd, 1, "M7", Refresh::PbBank),
        ("hbm3e-9132", Pattern::Rand, 8, "M7", Refresh::PbBank),
    ] {
        let d = HbmDevice::preset(device).unwrap();
        let name = format!(
            "{device} {} {arg} {mapping} {}",
            pattern.name(),
            refresh.name()
        );
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| black_box(run(&d, pattern, arg, mapping, refresh)));
        });
    }
    group.finish();
}

criterion_group!(benches, patterns);
criterion_main!(benches);
