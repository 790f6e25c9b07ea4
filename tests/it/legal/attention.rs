//! Attention that the kernel knows stays; all other attention becomes products and a softmax.

use super::{count, plain, same};
use proptest::prelude::*;
use tilewright::chip::Chip;
use tilewright::compiler::graph::{Attention, Builder, Data, Graph};
use tilewright::compiler::legal::{Options, Products, legalise};
use tilewright::num::Dtype;

/// Batch, queries, heads, dim, keys, heads of K, dim of V.
type Extents = [u64; 7];

fn attention(op: &Attention, dtype: Dtype, e: Extents, mask: (Dtype, [u64; 2])) -> Graph {
    let [batch, queries, heads, dim, keys, kv_heads, v_dim] = e;
    let mut b = Builder::new("attention");
    let mut operands = vec![
        b.input("q", dtype, &[batch, queries, heads, dim]).unwrap(),
        b.input("k", dtype, &[batch, keys, kv_heads, dim]).unwrap(),
        b.input("v", dtype, &[batch, keys, kv_heads, v_dim])
            .unwrap(),
    ];
    if op.mask {
        let shape = [mask.1[0], mask.1[1], queries, keys];
        operands.push(b.input("mask", mask.0, &shape).unwrap());
    }
    if op.sinks {
        operands.push(b.input("sinks", Dtype::F32, &[heads]).unwrap());
    }
    if op.lengths {
        let lengths: Vec<u8> = (0..batch as i32)
            .flat_map(|i| (2 * i).to_le_bytes())
            .collect();
        let data = Data::Bytes(lengths.into());
        operands.push(b.constant("lengths", Dtype::I32, &[batch], data).unwrap());
    }
    let o = b.attention(op.clone(), &operands).unwrap();
    b.output(o, "o").unwrap();
    b.finish().unwrap()
}

#[test]
fn attention_that_the_kernel_knows_is_kept() {
    use Dtype::{Bf16, E4m3, E5m2};
    let base = plain(Bf16, 32);
    let e: Extents = [2, 3, 4, 32, 9, 2, 32];
    let with = |change: &dyn Fn(&mut Attention)| {
        let mut op = base.clone();
        change(&mut op);
        op
    };
    let kept = [
        (base.clone(), Bf16, e),
        (base.clone(), E4m3, e),
        (base.clone(), E5m2, e),
        (with(&|op| op.causal = Some(6)), Bf16, e),
        // Every query sees every key.
        (with(&|op| op.causal = Some(8)), Bf16, e),
        (
            with(&|op| (op.causal, op.window) = (Some(6), Some(9))),
            Bf16,
            e,
        ),
        (with(&|op| op.scale = 0.25), Bf16, e),
        (with(&|op| op.scale = 0.25), E4m3, e),
    ];
    for (op, dtype, e) in kept {
        let graph = attention(&op, dtype, e, (Bf16, [1, 1]));
        let legal = legalise(&graph, &Options::default()).unwrap();
        // Q rounds to BF16 where its scale is no power of two.
        same(&graph, &legal, 2f64.powi(-7));
        assert_eq!(count(&legal).get("attention"), Some(&1), "{op:?} {dtype}");
        assert_eq!(count(&legal).get("matmul"), None);
    }
    let not = [
        (with(&|op| op.causal = Some(0)), e),
        (with(&|op| (op.causal, op.window) = (Some(6), Some(8))), e),
        (with(&|op| op.softcap = Some(2.0)), e),
        (with(&|op| op.sinks = true), e),
        (base.clone(), [2, 3, 4, 24, 9, 2, 24]),
        (base.clone(), [2, 3, 4, 32, 9, 2, 64]),
    ];
    for (op, e) in not {
        let graph = attention(&op, Bf16, e, (Bf16, [1, 1]));
        let legal = legalise(&graph, &Options::default()).unwrap();
        same(&graph, &legal, 2f64.powi(-7));
        assert_eq!(count(&legal).get("attention"), None);
        assert_eq!(count(&legal)["matmul"], 2, "{op:?}");
    }
    // FP32 asks for BF16 to be kept.
    let graph = attention(&plain(Dtype::F32, 32), Dtype::F32, e, (Bf16, [1, 1]));
    for (products, kept) in [(Products::Faithful, None), (Products::Bf16, Some(&1))] {
        let options = Options {
            products,
            ..Options::default()
        };
        let legal = legalise(&graph, &options).unwrap();
        same(
            &graph,
            &legal,
            if kept.is_some() { 2f64.powi(-6) } else { 1e-5 },
        );
        assert_eq!(count(&legal).get("attention"), kept);
    }
}

/// Attention with keys hidden for all queries of a batch element, by a mask that repeats and by lengths.
fn hidden_keys(
    op: &Attention,
    [batch, queries, heads, dim, keys, kv_heads, v_dim]: Extents,
) -> Graph {
    let mut b = Builder::new("attention");
    let dtype = Dtype::Bf16;
    let mut operands = vec![
        b.input("q", dtype, &[batch, queries, heads, dim]).unwrap(),
        b.input("k", dtype, &[batch, keys, kv_heads, dim]).unwrap(),
        b.input("v", dtype, &[batch, keys, kv_heads, v_dim])
            .unwrap(),
    ];
    if op.mask {
        let seen = b.input("seen", Dtype::U8, &[batch, keys]).unwrap();
        let seen = b.reshape(seen, &[batch, 1, 1, keys]).unwrap();
        operands.push(b.expand(seen, &[batch, 1, queries, keys]).unwrap());
    }
    if op.sinks {
        operands.push(b.input("sinks", Dtype::F32, &[heads]).unwrap());
    }
    if op.lengths {
        let lengths: Vec<u8> = (0..batch as i32)
            .flat_map(|i| (33 * i).to_le_bytes())
            .collect();
        let data = Data::Bytes(lengths.into());
        operands.push(b.constant("lengths", Dtype::I32, &[batch], data).unwrap());
    }
    let o = b.attention(op.clone(), &operands).unwrap();
    b.output(o, "o").unwrap();
    b.finish().unwrap()
}

/// With how they are brought to the kernel.
pub fn hidden_keys_for_the_kernel(chip: &Chip) -> Vec<(Graph, Graph)> {
    let options = Options {
        chip: Some(chip.clone()),
        ..Options::default()
    };
    let extents: Extents = [3, 40, 4, 32, 70, 2, 64];
    let mut all = Vec::new();
    for (mask, lengths, sinks, causal) in [
        (true, false, false, None),
        (true, true, true, None),
        (false, true, false, Some(30)),
        (true, false, true, Some(30)),
    ] {
        let op = Attention {
            mask,
            lengths,
            sinks,
            causal,
            ..plain(Dtype::Bf16, 32)
        };
        let graph = hidden_keys(&op, extents);
        let legal = legalise(&graph, &options).unwrap();
        all.push((graph, legal));
    }
    all
}

#[test]
fn keys_that_a_batch_element_does_not_see_keep_the_kernel() {
    for (graph, legal) in hidden_keys_for_the_kernel(&Chip::preset("maia-200").unwrap()) {
        let nodes = count(&legal);
        assert_eq!(
            (nodes.get("attention"), nodes.get("matmul")),
            (Some(&1), None)
        );
        same(&graph, &legal, 2f64.powi(-6));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_attention_becomes_products_and_a_softmax(
        (batch, queries, group, kv_heads, keys) in (1u64..3, 1u64..5, 1u64..3, 1u64..3, 1u64..8),
        (dim, v_dim) in (1u64..6, 1u64..6),
        scale in -1f32..2.0,
        causal in prop::option::of(-3i64..8),
        window in prop::option::of(1u64..6),
        softcap in prop::option::of(0.5f32..3.0),
        mask in prop::option::of((prop::sample::select(vec![Dtype::U8, Dtype::F32, Dtype::Bf16]), any::<[bool; 2]>())),
        (sinks, lengths) in any::<(bool, bool)>(),
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16]),
    ) {
        let heads = group * kv_heads;
        let op = Attention {
            dtype,
            scale,
            causal,
            window: causal.and(window),
            softcap,
            mask: mask.is_some(),
            sinks,
            lengths,
        };
        let (kind, [each_batch, each_head]) = mask.unwrap_or((Dtype::F32, [false; 2]));
        let outer = [if each_batch { batch } else { 1 }, if each_head { heads } else { 1 }];
        let e = [batch, queries, heads, dim, keys, kv_heads, v_dim];
        let graph = attention(&op, dtype, e, (kind, outer));
        let legal = legalise(&graph, &Options::default()).unwrap();
        let bound = match dtype {
            Dtype::F32 => 1e-5,
            Dtype::F16 => 2f64.powi(-9),
            _ => 2f64.powi(-6),
        };
        same(&graph, &legal, bound);
        let nodes = count(&legal);
        prop_assert_eq!((nodes.get("attention"), nodes.get("matmul")), (None, Some(&2)));
    }
}
