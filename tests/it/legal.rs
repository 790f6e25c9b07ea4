//! Rewriting of graphs: every pass, and all of them, give what the graph gave before.

pub mod attention;

use proptest::prelude::*;
use std::collections::BTreeMap;
use tilewright::compiler::graph::{
    Attention, Builder, Data, Graph, GraphError, Kind, Op, Pad, TopK, ValueId, View,
};
use tilewright::compiler::legal::{
    Folded, LegalError, Options, Products, broadcast, fuse, layout, legalise, legalise_counted,
    siblings,
};
use tilewright::compiler::rowwise::{Binary, Reduce, Spread, Unary};
use tilewright::num::{Dtype, Overflow, Rounding, encode_slice};
use tilewright::reference::graph::{Tensor, evaluate};

/// Numbers of a tensor, the same for the same seed, in (-1, 1).
fn numbers(seed: u64, count: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 23) - 1.0
        })
        .collect()
}

fn constant(b: &mut Builder, name: &str, dtype: Dtype, shape: &[u64]) -> ValueId {
    let count: u64 = shape.iter().product();
    let seed = name.bytes().fold(7, |s, c| s * 31 + u64::from(c));
    let scale = if dtype.is_float() { 1.0 } else { 100.0 };
    let values: Vec<f32> = numbers(seed, count)
        .iter()
        .map(|x| (x * scale) as f32)
        .collect();
    let mut bytes = vec![0; dtype.bytes_for(count) as usize];
    let (rne, saturate) = (Rounding::Rne, Overflow::Saturate);
    encode_slice(dtype, &values, &mut bytes, rne, saturate);
    b.constant(name, dtype, shape, Data::Bytes(bytes.into()))
        .unwrap()
}

/// Values for every input of a graph.
fn inputs(graph: &Graph) -> BTreeMap<String, Vec<f64>> {
    let values = |seed: u64, value: &tilewright::compiler::graph::Value| {
        let scale = if value.dtype.is_float() { 1.0 } else { 100.0 };
        let all = numbers(seed + 3, value.elements());
        all.into_iter().map(|x| x * scale).collect()
    };
    let all = graph.list(&graph.inputs).enumerate();
    all.map(|(i, value)| (value.name.clone(), values(i as u64, value)))
        .collect()
}

fn run(graph: &Graph) -> Vec<Tensor> {
    evaluate(graph, &inputs(graph)).unwrap()
}

/// Fails unless two graphs give the same but for `bound`.
#[track_caller]
fn same(before: &Graph, after: &Graph, bound: f64) {
    let names = |g: &Graph| -> Vec<String> {
        let ids = g.inputs.iter().chain(&g.outputs);
        ids.map(|id| format!("{} {:?}", g[*id], g[*id].kind))
            .collect()
    };
    assert_eq!(names(before), names(after));
    let results = run(before).into_iter().zip(run(after));
    for (id, (want, got)) in before.outputs.iter().zip(results) {
        assert_eq!(want.shape, got.shape);
        for (at, (w, g)) in want.values.iter().zip(&got.values).enumerate() {
            let equal = w == g || (w.is_nan() && g.is_nan()) || (w - g).abs() <= bound;
            assert!(
                equal,
                "{} at {at}: {g}, before {w}\n{before}\n{after}",
                before[*id]
            );
        }
    }
}

/// How many nodes there are of each operation, aliases left out.
fn count(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut all = BTreeMap::new();
    for node in &graph.nodes {
        let alias = match &node.op {
            Op::Layout(view) => view.is_alias(graph[node.inputs[0]].elements()),
            _ => false,
        };
        if !alias {
            *all.entry(node.op.name()).or_default() += 1;
        }
    }
    all
}

/// Views that move elements.
fn copies(graph: &Graph) -> usize {
    count(graph).get("layout").copied().unwrap_or(0)
}

/// A choice of operation with numbers for its operands and attributes.
pub type Choice = (u8, [u64; 4]);

/// Adds an operation on values made so far, if they go together.
fn add(
    b: &mut Builder,
    ids: &[ValueId],
    (kind, n): Choice,
    types: &[Dtype],
) -> Result<ValueId, GraphError> {
    let id = |i: u64| ids[i as usize % ids.len()];
    let (x, y) = (id(n[0]), id(n[1]));
    let shape = b.shape(x).to_vec();
    let rank = shape.len();
    let axis = n[2] as usize % rank.max(1);
    let dtype = types[n[3] as usize % types.len()];
    match kind {
        0 => b.elementwise(&[x, y], dtype, |r, x| r.binary(Binary::Sub, x[0], x[1])),
        1 => b.elementwise(&[x], dtype, |r, x| r.unary(Unary::Tanh, x[0])),
        2 => {
            let made = b.rows(Some(axis), &[x], |r, x| {
                let most = r.reduce(Reduce::Max, x[0]);
                let less = r.binary(Binary::Sub, x[0], most);
                vec![(less, dtype, Spread::Full), (most, dtype, Spread::PerRow)]
            })?;
            Ok(made[n[3] as usize % 2])
        }
        3 | 4 => b.matmul(x, y, dtype),
        5 => {
            let order: Vec<usize> = (0..rank).map(|a| (a + axis) % rank).collect();
            b.transpose(x, &order)
        }
        6 if rank > 0 => {
            let start = n[3] % shape[axis];
            let count = 1 + n[1] % (shape[axis] - start);
            b.slice(x, axis, start, 1, count)
        }
        7 => b.concat(&[x, y], axis),
        8 => b.pad(x, &vec![(n[2] % 2, n[3] % 2); rank], 0.5),
        9 => b.reshape(x, &[shape.iter().product()]),
        10 if rank > 0 => {
            let weights = constant(b, &format!("w{}", n[2] % 3), dtype, &[shape[rank - 1], 3]);
            b.matmul(x, weights, types[n[1] as usize % types.len()])
        }
        11 => {
            let table = constant(b, &format!("t{}", n[2] % 3), dtype, &shape);
            b.transpose(table, &(0..rank).rev().collect::<Vec<_>>())
        }
        _ => b.expand(x, &[&[1 + n[2] % 3], &shape[..]].concat()),
    }
}

/// A random graph, and the same with every value as an output.
pub fn random(extents: &[u64], choices: &[Choice], types: &[Dtype]) -> (Graph, Graph) {
    let mut b = Builder::new("random");
    let mut ids = Vec::new();
    let back: Vec<u64> = extents.iter().rev().copied().collect();
    for (i, shape) in [extents, &back].into_iter().enumerate() {
        let dtype = types[i % types.len()];
        ids.push(b.input(&format!("x{i}"), dtype, shape).unwrap());
    }
    for choice in choices {
        // What does not go together is refused and changes nothing that counts.
        if let Ok(id) = add(&mut b, &ids, *choice, types)
            && b.value(id).elements() <= 1 << 11
        {
            ids.push(id);
        }
    }
    let mut open = b.clone();
    let outputs = |b: &mut Builder, ids: &mut dyn Iterator<Item = &ValueId>| {
        for (i, id) in ids.enumerate() {
            b.output(*id, &format!("y{i}")).unwrap();
        }
    };
    outputs(&mut b, &mut ids.iter().rev().take(3));
    outputs(&mut open, &mut ids.iter());
    (b.finish().unwrap(), open.finish().unwrap())
}

fn largest(graph: &Graph) -> f64 {
    let all = run(graph).into_iter().flat_map(|t| t.values);
    all.map(f64::abs)
        .filter(|x| x.is_finite())
        .fold(1.0, f64::max)
}

pub const ALL: [Dtype; 5] = [Dtype::F32, Dtype::Bf16, Dtype::E4m3, Dtype::F16, Dtype::F32];

pub fn choices() -> impl Strategy<Value = Vec<Choice>> {
    prop::collection::vec((0u8..13, any::<[u64; 4]>()), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn passes_that_move_nothing_are_exact(
        extents in prop::collection::vec(1u64..5, 1..4),
        choices in choices(),
    ) {
        let (graph, _) = random(&extents, &choices, &ALL);
        let mut folded = Folded::new();
        let laid = layout::layouts(&graph, &mut folded).unwrap();
        same(&graph, &laid, 0.0);
        prop_assert!(copies(&laid) <= copies(&graph));
        same(&graph, &siblings::merge_siblings(&graph, 1 << 20, &mut folded).unwrap(), 0.0);
        let narrow = broadcast::broadcasts(&graph, &mut folded).unwrap();
        same(&graph, &narrow, 0.0);
        same(&graph, &layout::layouts(&narrow, &mut folded).unwrap(), 0.0);
    }

    #[test]
    fn merged_programs_give_the_same(
        extents in prop::collection::vec(1u64..5, 1..4),
        choices in choices(),
    ) {
        let (graph, _) = random(&extents, &choices, &ALL);
        let fused = fuse::fuse(&graph, None).unwrap();
        same(&graph, &fused, 0.0);
        prop_assert!(fused.nodes.len() <= graph.nodes.len());
    }

    #[test]
    fn random_graphs_are_brought_into_form(
        extents in prop::collection::vec(1u64..5, 1..4),
        choices in choices(),
        rows in 0u64..20,
    ) {
        let (graph, open) = random(&extents, &choices, &[Dtype::F32]);
        let options = Options { sibling_rows: rows, ..Options::default() };
        let legal = legalise(&graph, &options).unwrap();
        same(&graph, &legal, 1e-4 * largest(&open));
    }

    #[test]
    fn every_mix_of_types_is_brought_into_form(
        extents in prop::collection::vec(1u64..5, 1..4),
        choices in choices(),
        products in prop::sample::select(vec![Products::Faithful, Products::Bf16, Products::Fp8]),
    ) {
        // How far values that round to three bits differ is anyone's guess; that there are such graphs is the point.
        let (graph, _) = random(&extents, &choices, &ALL);
        let options = Options { products, sibling_rows: 8, chip: None };
        let legal = legalise(&graph, &options).unwrap();
        prop_assert_eq!(run(&graph).len(), run(&legal).len());
    }
}

/// A product of an input and an input or a constant.
fn product(a: (Dtype, &[u64]), b: (Dtype, &[u64]), weights: bool, dtype: Dtype) -> Graph {
    let mut builder = Builder::new("product");
    let x = builder.input("a", a.0, a.1).unwrap();
    let y = match weights {
        true => constant(&mut builder, "b", b.0, b.1),
        false => builder.input("b", b.0, b.1).unwrap(),
    };
    let c = builder.matmul(x, y, dtype).unwrap();
    builder.output(c, "c").unwrap();
    builder.finish().unwrap()
}

#[test]
fn products_of_every_shape_have_a_form() {
    let shapes: [(&[u64], &[u64], usize); 12] = [
        (&[5, 7], &[7, 3], 0),
        (&[2, 3, 5, 7], &[7, 3], 0),
        (&[2, 3, 5, 7], &[1, 1, 7, 3], 0),
        (&[2, 3, 5, 7], &[2, 3, 7, 3], 0),
        (&[2, 3, 4, 5, 7], &[2, 3, 1, 7, 3], 0),
        (&[5, 7], &[4, 7, 3], 0),
        (&[1, 1, 5, 7], &[2, 4, 7, 3], 0),
        (&[1, 1, 5, 7], &[1, 1, 7, 3], 0),
        (&[1, 5, 7], &[1, 7, 3], 0),
        // Repeated by a view.
        (&[2, 1, 5, 7], &[1, 3, 7, 3], 2),
        (&[2, 3, 5, 7], &[1, 3, 7, 3], 1),
        (&[3, 5, 7], &[2, 3, 7, 3], 1),
    ];
    for (a, b, views) in shapes {
        for weights in [false, true] {
            let graph = product((Dtype::Bf16, a), (Dtype::Bf16, b), weights, Dtype::F32);
            let legal = legalise(&graph, &Options::default()).unwrap();
            same(&graph, &legal, 0.0);
            assert!(copies(&legal) <= views, "{legal}");
        }
    }
}

/// Operand types, C's type, and what the error may be for |a|, |b| < 1 and 33 products.
#[test]
fn products_are_as_exact_as_their_operands() {
    use Dtype::{Bf16, E4m3, E5m2, F16, F32};
    let exact = 33.0 * 2f64.powi(-22);
    let cases = [
        (F32, F32, F32, 6),
        (F32, Bf16, F32, 3),
        (E4m3, F32, F32, 3),
        (F16, F16, F32, 4),
        (F16, F32, F32, 5),
        (Bf16, E4m3, F32, 1),
        (E5m2, E4m3, F32, 1),
        (E5m2, E5m2, F32, 1),
        (E4m3, E4m3, F32, 1),
    ];
    for (a, b, c, terms) in cases {
        for weights in [false, true] {
            let graph = product((a, &[5, 33]), (b, &[33, 9]), weights, c);
            let legal = legalise(&graph, &Options::default()).unwrap();
            same(&graph, &legal, exact);
            let node = legal
                .nodes
                .iter()
                .find(|n| n.op.name() == "matmul")
                .unwrap();
            assert_eq!(legal[node.inputs[0]].shape[1], 33 * terms, "{a} {b}");
            if a == b && a.bits() == 8 {
                assert_eq!(legal[node.inputs[0]].dtype, a);
            }
        }
    }
    // Other types of C are casts of an FP32 sum.
    let graph = product((Bf16, &[5, 33]), (Bf16, &[33, 9]), true, F16);
    let legal = legalise(&graph, &Options::default()).unwrap();
    same(&graph, &legal, 8.0 * 2f64.powi(-11));
    assert_eq!(
        count(&legal),
        BTreeMap::from([("matmul", 1), ("rowwise", 1)])
    );
    // Small weights of packed types.
    for dtype in [Dtype::E2m1, Dtype::E3m2, Dtype::E2m3] {
        let graph = product((Bf16, &[5, 33]), (dtype, &[33, 9]), true, F32);
        same(&graph, &legalise(&graph, &Options::default()).unwrap(), 0.0);
        let graph = product((Bf16, &[5, 33]), (dtype, &[33, 9]), false, F32);
        let error = legalise(&graph, &Options::default()).unwrap_err();
        assert!(
            matches!(&error, LegalError::Form { place, .. } if place == "b"),
            "{error}"
        );
    }
}

#[test]
fn asked_for_types_are_used() {
    use Dtype::{Bf16, E4m3, F32};
    for (products, dtype, bound) in [
        (Products::Bf16, Bf16, 33.0 * 2f64.powi(-8)),
        (Products::Fp8, E4m3, 33.0 * 2f64.powi(-3)),
    ] {
        let options = Options {
            products,
            ..Options::default()
        };
        let graph = product((F32, &[2, 5, 33]), (F32, &[33, 9]), true, F32);
        let legal = legalise(&graph, &options).unwrap();
        same(&graph, &legal, bound);
        let node = legal
            .nodes
            .iter()
            .find(|n| n.op.name() == "matmul")
            .unwrap();
        assert!(
            legal.list(&node.inputs).all(|v| v.dtype == dtype),
            "{legal}"
        );
        // Far from one: the scales carry it.
        let differs = run(&graph)[0]
            .values
            .iter()
            .zip(&run(&legal)[0].values)
            .any(|(a, b)| a != b);
        assert!(differs);
    }
}

#[test]
fn weights_in_fp8_are_used_as_they_are() {
    use Dtype::{Bf16, E4m3, F32};
    let options = Options {
        products: Products::Fp8,
        ..Options::default()
    };
    let graph = product((Bf16, &[5, 33]), (E4m3, &[33, 9]), true, F32);
    let (legal, folded) = legalise_counted(&graph, &options).unwrap();
    same(&graph, &legal, 33.0 * 2f64.powi(-4));
    let node = legal
        .nodes
        .iter()
        .find(|n| n.op.name() == "matmul")
        .unwrap();
    assert_eq!(legal[node.inputs[1]].name, "b");
    assert_eq!(folded, Folded::new());
    // One constant as A and as B has scales for its rows there and for its columns here.
    let mut b = Builder::new("both");
    let w = constant(&mut b, "w", F32, &[9, 9]);
    let x = b.input("x", F32, &[9, 9]).unwrap();
    let both = b.matmul(w, w, F32).unwrap();
    let y = b.matmul(x, w, F32).unwrap();
    b.output(both, "both").unwrap();
    b.output(y, "y").unwrap();
    let graph = b.finish().unwrap();
    same(
        &graph,
        &legalise(&graph, &options).unwrap(),
        9.0 * 2f64.powi(-3),
    );
}

#[test]
fn scales_of_fp8_carry_small_and_large_rows() {
    let mut b = Builder::new("scales");
    let x = b.input("x", Dtype::F32, &[3, 32]).unwrap();
    let rows = b.numbers(&[1e-6, 1e6, 0.0], &[3, 1]).unwrap();
    let a = b
        .elementwise(&[x, rows], Dtype::F32, |r, x| {
            r.binary(Binary::Mul, x[0], x[1])
        })
        .unwrap();
    let w = constant(&mut b, "w", Dtype::F32, &[32, 5]);
    let c = b.matmul(a, w, Dtype::F32).unwrap();
    b.output(c, "c").unwrap();
    let graph = b.finish().unwrap();
    let options = Options {
        products: Products::Fp8,
        ..Options::default()
    };
    let legal = legalise(&graph, &options).unwrap();
    let (want, got) = (run(&graph), run(&legal));
    for (row, scale) in [1e-6, 1e6, 0.0].into_iter().enumerate() {
        for at in row * 5..row * 5 + 5 {
            let (w, g) = (want[0].values[at], got[0].values[at]);
            assert!((w - g).abs() <= 2.0 * scale, "{at}: {g}, before {w}");
            assert!(
                w == 0.0 || (w - g).abs() < w.abs().max(0.3 * scale),
                "{at}: {g}, before {w}"
            );
        }
    }
    // Multiply, quantise: one program. The product, and its scales.
    assert_eq!(
        count(&legal),
        BTreeMap::from([("matmul", 1), ("rowwise", 2)])
    );
}

fn plain(dtype: Dtype, dim: u64) -> Attention {
    Attention {
        dtype,
        scale: 1.0 / (dim as f32).sqrt(),
        causal: None,
        window: None,
        softcap: None,
        mask: false,
        sinks: false,
        lengths: false,
    }
}

/// A layer of a decoder in BF16: norm, Q, K and V, a cache that grows, attention, residual, norm, gate and up.
fn layer(tokens: u64) -> Graph {
    let (dtype, hidden) = (Dtype::Bf16, 64);
    let mut b = Builder::new("layer");
    let x = b.input("x", dtype, &[1, tokens, hidden]).unwrap();
    let past = b.input("past", dtype, &[1, 8, 2, 32]).unwrap();
    let norm = |b: &mut Builder, x: ValueId, name: &str| {
        let weight = constant(b, name, dtype, &[hidden]);
        tilewright::compiler::import::blocks::rms_norm(b, x, weight, 1e-5).unwrap()
    };
    // Weights as the hub stores them, [out, in].
    let linear = |b: &mut Builder, x: ValueId, name: &str, out: u64| {
        let inner = *b.shape(x).last().unwrap();
        let weight = constant(b, name, dtype, &[out, inner]);
        let weight = b.transpose(weight, &[1, 0]).unwrap();
        b.matmul(x, weight, dtype).unwrap()
    };
    let n = norm(&mut b, x, "n1");
    let q = linear(&mut b, n, "q", 128);
    let q = b.reshape(q, &[1, tokens, 4, 32]).unwrap();
    let k = linear(&mut b, n, "k", 64);
    let k = b.reshape(k, &[1, tokens, 2, 32]).unwrap();
    let v = linear(&mut b, n, "v", 64);
    let v = b.reshape(v, &[1, tokens, 2, 32]).unwrap();
    let keys = b.concat(&[past, k], 1).unwrap();
    let values = b.concat(&[past, v], 1).unwrap();
    let mut op = plain(dtype, 32);
    op.causal = Some(8);
    let o = b.attention(op, &[q, keys, values]).unwrap();
    let o = b.reshape(o, &[1, tokens, 128]).unwrap();
    let o = linear(&mut b, o, "o", hidden);
    let add = |b: &mut Builder, x, y| {
        b.elementwise(&[x, y], dtype, |r, x| r.binary(Binary::Add, x[0], x[1]))
            .unwrap()
    };
    let x = add(&mut b, x, o);
    let n = norm(&mut b, x, "n2");
    let gate = linear(&mut b, n, "gate", 96);
    let up = linear(&mut b, n, "up", 96);
    let gate = b
        .elementwise(&[gate], dtype, |r, x| r.unary(Unary::Swish, x[0]))
        .unwrap();
    let wide = b
        .elementwise(&[gate, up], dtype, |r, x| r.binary(Binary::Mul, x[0], x[1]))
        .unwrap();
    let down = linear(&mut b, wide, "down", hidden);
    let y = add(&mut b, x, down);
    b.output(y, "y").unwrap();
    b.output(keys, "keys").unwrap();
    b.output(values, "values").unwrap();
    b.finish().unwrap()
}

#[test]
fn a_layer_has_the_nodes_that_it_needs() {
    for chip in [
        None,
        Some(tilewright::chip::Chip::preset("maia-200").unwrap()),
    ] {
        for (tokens, rows) in [(1, 16), (5, 0)] {
            let graph = layer(tokens);
            let options = Options {
                sibling_rows: rows,
                chip: chip.clone(),
                ..Options::default()
            };
            let (legal, folded) = legalise_counted(&graph, &options).unwrap();
            same(&graph, &legal, 0.0);
            let nodes = count(&legal);
            // Norm; residual and norm; SwiGLU; residual.
            assert_eq!(nodes["rowwise"], 4, "{legal}");
            assert_eq!(nodes["concat"], 2);
            assert_eq!(nodes["attention"], 1);
            assert_eq!(nodes["matmul"], if rows > 0 { 4 } else { 7 });
            let runs = |node: &tilewright::compiler::graph::Node| match &node.op {
                Op::Layout(view) => view.is_run().is_some(),
                _ => true,
            };
            assert!(legal.nodes.iter().all(runs), "{legal}");
            // Transposes of the weights.
            assert_eq!(folded["layout"], 7);
            assert_eq!(folded.get("siblings"), (rows > 0).then_some(&5));
        }
    }
}

#[test]
fn repeated_operands_are_read_once() {
    let mut b = Builder::new("repeated");
    let x = b.input("x", Dtype::F32, &[2, 3, 4, 8]).unwrap();
    let mask = b.input("mask", Dtype::F32, &[1, 1, 1, 8]).unwrap();
    let mask = b.expand(mask, &[2, 3, 4, 8]).unwrap();
    let bias = b.input("bias", Dtype::F32, &[2, 3, 1, 1]).unwrap();
    let bias = b.expand(bias, &[2, 3, 4, 8]).unwrap();
    let y = b
        .rows(Some(3), &[x, mask, bias], |r, x| {
            let sum = r.binary(Binary::Add, x[0], x[1]);
            let sum = r.binary(Binary::Add, sum, x[2]);
            let top = r.reduce(Reduce::Max, sum);
            vec![(r.binary(Binary::Sub, sum, top), Dtype::F32, Spread::Full)]
        })
        .unwrap();
    b.output(y[0], "y").unwrap();
    let graph = b.finish().unwrap();
    let legal = legalise(&graph, &Options::default()).unwrap();
    same(&graph, &legal, 0.0);
    let Op::Rowwise(op) = &legal.nodes.last().unwrap().op else {
        panic!("{legal}");
    };
    let spreads: Vec<Spread> = op.inputs.iter().map(|i| i.spread).collect();
    assert_eq!(spreads, [Spread::Full, Spread::PerColumn, Spread::PerRow]);
}

#[test]
fn what_the_chip_moves_stays_as_it_is() {
    let mut b = Builder::new("moves");
    let x = b.input("x", Dtype::F32, &[4, 6]).unwrap();
    let i = b.input("i", Dtype::I32, &[3]).unwrap();
    let padded = b.pad(x, &[(1, 0), (0, 2)], 2.0).unwrap();
    let places = b.elementwise(&[i], Dtype::I32, |r, x| {
        let zero = r.constant(0.0);
        r.binary(Binary::Mul, x[0], zero)
    });
    let rows = b.gather(padded, places.unwrap(), 0).unwrap();
    let top = TopK {
        k: 2,
        largest: true,
        last_of_equals: false,
    };
    let [values, places] = b.top_k(rows, top.clone()).unwrap();
    b.output(values, "values").unwrap();
    b.output(places, "places").unwrap();
    // An input, and a constant, as outputs.
    b.output(x, "same").unwrap();
    let w = constant(&mut b, "w", Dtype::E2m1, &[3, 3]);
    let w = b.transpose(w, &[1, 0]).unwrap();
    b.output(w, "weights").unwrap();
    let graph = b.finish().unwrap();
    let legal = legalise(&graph, &Options::default()).unwrap();
    same(&graph, &legal, 0.0);
    let has = |want: &dyn Fn(&Op) -> bool| legal.nodes.iter().any(|n| want(&n.op));
    assert!(has(&|op| *op == Op::TopK(top.clone())));
    assert!(has(
        &|op| matches!(op, Op::Pad(Pad { value, .. }) if *value == 2.0)
    ));
    assert!(has(&|op| matches!(op, Op::Gather(g) if g.axis == 0)));
    assert_eq!(legal.constants().count(), 1);
}

#[test]
fn weights_that_are_absent_stay_absent() {
    let mut b = Builder::new("absent");
    let x = b.input("x", Dtype::F32, &[4, 6]).unwrap();
    let w = b.constant("w", Dtype::F32, &[3, 6], Data::Absent).unwrap();
    let w = b.transpose(w, &[1, 0]).unwrap();
    let y = b.matmul(x, w, Dtype::F32).unwrap();
    b.output(y, "y").unwrap();
    let graph = b.finish().unwrap();
    let (legal, folded) = legalise_counted(&graph, &Options::default()).unwrap();
    let kinds: Vec<&Kind> = legal.constants().map(|(_, v, _)| &v.kind).collect();
    assert_eq!(kinds, [&Kind::Constant(Data::Absent)]);
    assert_eq!(folded, Folded::from([("layout", 1), ("products", 1)]));
    let (_, value, _) = legal.constants().next().unwrap();
    assert_eq!((value.dtype, &value.shape[..]), (Dtype::Bf16, &[36, 3][..]));
    let identity = View::reshape(&[1]);
    assert_eq!(identity.is_run(), Some(0));
}

#[test]
fn a_step_of_llama_is_as_few_programs_as_it_can_be() {
    use tilewright::compiler::import::hf::{Step, named};
    let layers = 32;
    for (tokens, past, rows) in [(1, 1023, 16), (1024, 0, 0)] {
        let extents = [("tokens".to_owned(), tokens), ("past".to_owned(), past)];
        let step = Step::of(&extents).unwrap();
        let graph = named("llama-3.1-8b", step).unwrap().graph;
        let options = Options {
            sibling_rows: rows,
            ..Options::default()
        };
        let (legal, folded) = legalise_counted(&graph, &options).unwrap();
        let nodes = count(&legal);
        // Q, K, V together or apart, O, gate and up, down; the head.
        let products = if rows > 0 { 4 } else { 7 };
        assert_eq!(nodes["matmul"], products * layers + 1);
        assert_eq!(nodes["attention"], layers);
        // RoPE of Q and of K, residual and norm twice, SwiGLU; the first norm; of many tokens the last norm takes the last one only,
        // apart from the residual.
        assert_eq!(
            nodes["rowwise"],
            5 * layers + if tokens > 1 { 2 } else { 1 }
        );
        // Weights transposed on the host: all but the embedding.
        assert_eq!(folded["layout"], 7 * layers + if rows > 0 { 1 } else { 3 });
        assert_eq!(folded.get("siblings"), (rows > 0).then_some(&(5 * layers)));
    }
}

#[test]
fn the_reference_rounds_and_takes_logarithms_of_nothing() {
    let mut b = Builder::new("reference");
    let x = b.numbers(&[0.0, 1.0, 3.0], &[3]).unwrap();
    let log = b
        .elementwise(&[x], Dtype::F32, |r, x| r.unary(Unary::Log2, x[0]))
        .unwrap();
    // 1/3 in FP32, times 3, is 1 and a little only in more than FP32.
    let thirds = b
        .elementwise(&[x], Dtype::F32, |r, x| {
            let three = r.constant(3.0);
            let third = r.binary(Binary::Div, x[0], three);
            let third = r.unary(Unary::Cast(Dtype::F32), third);
            let whole = r.binary(Binary::Mul, third, three);
            r.binary(Binary::Sub, whole, x[0])
        })
        .unwrap();
    b.output(log, "log").unwrap();
    b.output(thirds, "thirds").unwrap();
    let results = run(&b.finish().unwrap());
    assert_eq!(results[0].values[..2], [f64::NEG_INFINITY, 0.0]);
    assert!(results[1].values[1] > 0.0, "{:?}", results[1].values);
}
