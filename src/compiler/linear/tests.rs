//! Tests of planning, of packing and of the chunks' places; programs run in the integration tests.

use super::*;
use crate::chip::Chip;
use crate::num::random::splitmix64;

fn chip(name: &str) -> Chip {
    Chip::preset(name).unwrap()
}

fn linear(m: u64, n: u64, k: u64, weights: Operand) -> Linear {
    Linear {
        m,
        n,
        k,
        input: Dtype::Bf16,
        weights,
        blocks: None,
        output: Dtype::Bf16,
    }
}

fn mx(dtype: Dtype) -> Operand {
    Operand {
        dtype,
        scale: ScaleType::E8m0,
    }
}

fn plain(dtype: Dtype) -> Operand {
    Operand {
        dtype,
        scale: ScaleType::None,
    }
}

/// The least bytes of a layer's weights.
fn bytes(op: &Linear) -> u64 {
    op.k * op.weights.bytes(op.n) + op.weights.scale_blocks(op.k) * op.n
}

#[test]
fn layers_of_models_stream_little_more_than_their_weights() {
    let chip = chip("maia-200");
    let shapes = [
        (6144, 4096),
        (4096, 4096),
        (28672, 4096),
        (4096, 14336),
        (128_256, 4096),
        (57344, 8192),
        (8192, 28672),
        (1024, 1024),
    ];
    for weights in [
        plain(Dtype::Bf16),
        plain(Dtype::E4m3),
        mx(Dtype::E4m3),
        mx(Dtype::E2m1),
    ] {
        for (n, k) in shapes {
            for m in [1, 16, 64] {
                let op = linear(m, n, k, weights);
                if (m, n) == (64, 57344) && weights.dtype == Dtype::Bf16 {
                    // A and C of so many rows leave no room for the ring.
                    assert!(Stream::new(&[op], &chip, 2 << 20, 0).is_err());
                    continue;
                }
                let stream = Stream::new(&[op], &chip, 2 << 20, 0).unwrap();
                let more = stream.bytes as f64 / bytes(&op) as f64;
                // A small layer has few columns for each tile.
                let most = if n * k < 2 << 20 { 1.07 } else { 1.03 };
                assert!(more < most, "{op}: {more} of {:?}", stream.layers[0]);
            }
        }
    }
}

#[test]
fn what_is_unpacked_was_packed() {
    let chip = chip("maia-200");
    for weights in [
        plain(Dtype::Bf16),
        plain(Dtype::E4m3),
        mx(Dtype::E4m3),
        mx(Dtype::E2m1),
        mx(Dtype::E3m2),
    ] {
        for (m, n, k) in [
            (1, 4, 1),
            (1, 100, 1000),
            (40, 4404, 77),
            (3, 252, 3333),
            (64, 72, 9000),
        ] {
            let op = linear(m, n, k, weights);
            let p = plan(&op, &chip, 16 << 10).unwrap();
            let random = |seed, count: u64| -> Vec<u8> {
                (0..count).map(|i| splitmix64(seed, i) as u8 | 1).collect()
            };
            let elements = random(1, k * weights.bytes(n));
            let scales = random(2, weights.scale_blocks(k) * n);
            let packed = pack(&p, &elements, &scales);
            assert_eq!(packed.len() as u64, p.bytes());
            let nonzero = packed.iter().filter(|b| **b != 0).count();
            assert_eq!(nonzero, elements.len() + scales.len(), "{p:?}");
            assert_eq!(unpack(&p, &packed), (elements, scales), "{p:?}");
        }
    }
}

#[test]
fn chunks_follow_each_other_through_the_stream() {
    let chip = chip("mini");
    let layers = [(1, 300, 500), (33, 64, 100), (1, 300, 500)]
        .map(|(m, n, k)| linear(m, n, k, plain(Dtype::E4m3)));
    let stream = Stream::new(&layers, &chip, 128 << 10, 4096).unwrap();
    let (mut index, mut at) = (0, 4096);
    while let Some(load) = stream.load(index) {
        assert_eq!(load.at, at);
        assert!(load.pieces.total() <= stream.slot);
        at += u64::from(chip.tiles()) * load.pieces.total();
        index += 1;
    }
    assert_eq!(index, stream.chunks_before(3));
    assert_eq!(at, 4096 + stream.bytes);
    assert_eq!(stream.range(2), stream.range(1).end..stream.bytes);
}

#[test]
fn what_cannot_be_is_one_error() {
    let chip = chip("mini");
    let good = linear(1, 64, 64, plain(Dtype::E4m3));
    for (op, says) in [
        (Linear { m: 65, ..good }, "m = 65, it must be 1 to 64"),
        (Linear { k: 0, ..good }, "k = 0, it must be 1 to 16777216"),
        (
            Linear {
                n: 63,
                weights: mx(Dtype::E2m1),
                ..good
            },
            "n = 63, it must be a multiple of 2",
        ),
        (
            Linear {
                weights: mx(Dtype::Bf16),
                ..good
            },
            "weights of type bf16 with scales of type e8m0",
        ),
        (
            Linear {
                weights: plain(Dtype::I32),
                ..good
            },
            "weights of type i32",
        ),
        (
            Linear {
                input: Dtype::I32,
                ..good
            },
            "input of type i32",
        ),
        (
            Linear {
                output: Dtype::F16,
                ..good
            },
            "output of type f16",
        ),
        (
            Linear {
                k: 1 << 20,
                m: 64,
                ..good
            },
            "in no cut a chunk of B fits",
        ),
    ] {
        let error = Stream::new(&[op], &chip, 128 << 10, 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    }
    for (ring, hbm, says) in [
        (1 << 10, 0, "a ring of 1024 bytes"),
        (1 << 20, 0, "the tile has 262144 bytes"),
        (64 << 10, chip.hbm_bytes(), "bytes of weights from address"),
    ] {
        let error = Stream::new(&[good], &chip, ring, hbm)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    }
}
