//! Host speed of the whole program: the rows of the README's table, and the layers below them.
//!
//! `cargo bench --bench speed`. Times are of the simulation alone (compiling and loading excluded), as `wall_s` of `bench`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tilewright::chip::Chip;
use tilewright::compiler::op::{Attention, Matmul, Op};
use tilewright::compiler::{self, Compiled, MatmulType};
use tilewright::machine::{LoadOptions, Machine};
use tilewright::num::Dtype;
use tilewright::num::gemm::{self, Scales};
use tilewright::timing::{self, TimedOptions};

fn matmul(edge: u64) -> Op {
    Op::Matmul(Matmul::new(edge, edge, edge, MatmulType::Fp8))
}

fn decode() -> Op {
    Op::Attention(Attention {
        batch: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        q_len: 1,
        kv_len: 8192,
        causal: false,
        dtype: Dtype::E4m3,
        form: Default::default(),
    })
}

fn prefill() -> Op {
    Op::Attention(Attention {
        batch: 4,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        q_len: 4096,
        kv_len: 4096,
        causal: true,
        dtype: Dtype::E4m3,
        form: Default::default(),
    })
}

/// Times the simulation of an operation on `maia-200`.
fn simulate(c: &mut Criterion, name: &str, op: &Op, data: bool) {
    let chip = Arc::new(Chip::preset("maia-200").expect("a preset"));
    let Compiled { image, .. } = compiler::compile(op, &chip).expect("a valid operation");
    let image = Arc::new(image);
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    let load = || Machine::load(chip.clone(), image.clone(), &options).expect("it fits");
    c.bench_function(name, |b| {
        let run = |machine| timing::run(machine, &TimedOptions::default()).expect("it ends");
        b.iter_batched(
            load,
            |machine| black_box(run(machine).cycles),
            BatchSize::PerIteration,
        );
    });
}

fn whole_chip(c: &mut Criterion) {
    simulate(c, "matmul 8192^3 FP8, no data", &matmul(8192), false);
    simulate(
        c,
        "decode attention 32 x 8192, FP8, no data",
        &decode(),
        false,
    );
    simulate(
        c,
        "prefill attention 4 x 4096, FP8, no data",
        &prefill(),
        false,
    );
    simulate(c, "matmul 1024^3 FP8, with data", &matmul(1024), true);
}

fn compile(c: &mut Criterion) {
    let chip = Chip::preset("maia-200").expect("a preset");
    for (name, op) in [
        ("compile matmul 8192^3", matmul(8192)),
        ("compile decode attention", decode()),
    ] {
        c.bench_function(name, |b| {
            b.iter(|| black_box(compiler::compile(&op, &chip).is_ok()))
        });
    }
}

fn arithmetic(c: &mut Criterion) {
    let n = 512;
    let values: Vec<f32> = (0..n * n).map(|i| (i % 31) as f32 - 15.0).collect();
    c.bench_function("exact product 512^3, K blocks of 32", |b| {
        let mut acc = vec![0.0; n * n];
        b.iter(|| gemm::accumulate(black_box(&mut acc), n, &values, &values, n, n, n, 32));
    });
    // Scales from 2^-8 on, and from 1 on.
    let e8m0: Vec<u8> = (0..n * n / 32).map(|i| 119 + (i % 17) as u8).collect();
    let ue4m3: Vec<u8> = (0..n * n / 16).map(|i| 0x38 + (i % 17) as u8).collect();
    for (name, scales) in [
        ("E8M0", Scales::E8m0(&e8m0)),
        ("UE4M3", Scales::Ue4m3(&ue4m3)),
    ] {
        c.bench_function(&format!("exact product 512^3, {name} scales"), |b| {
            let mut acc = vec![0.0; n * n];
            let side = (&values[..], scales);
            b.iter(|| gemm::accumulate_scaled(black_box(&mut acc), n, side, side, n, n, n));
        });
    }
}

criterion_group! {
    name = speed;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(5)).without_plots();
    targets = whole_chip, compile, arithmetic
}
criterion_main!(speed);
