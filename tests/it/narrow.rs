//! Products in blocks through the chip: every format of whole models, few rows and many, against the graph's own meaning.

use crate::chain::{check, feed_forward};
use crate::families::tiny;
use crate::hf::model;
use std::collections::BTreeMap;
use tilewright::chip::Chip;
use tilewright::compiler::graph::derive::Blocks;
use tilewright::compiler::graph::{Builder, Data, Graph, Op, Recipe, Source};
use tilewright::compiler::import::hf::{Step, read};
use tilewright::compiler::legal::{self, Narrow, Products};
use tilewright::compiler::rowwise::{Binary, Rowwise, StepId};
use tilewright::num::Dtype;
use tilewright::num::random::{normal, splitmix64};
use tilewright::reference::graph::evaluate;

const ALL: [Narrow; 6] = [
    Narrow::Mxfp8,
    Narrow::Mxfp6,
    Narrow::Mxfp4,
    Narrow::Nvfp4,
    Narrow::W4a8,
    Narrow::W4a16,
];

fn legal(graph: &Graph, chip: &str, products: Products) -> Graph {
    let options = legal::Options {
        products,
        sibling_rows: 64,
        chip: Some(Chip::preset(chip).unwrap()),
    };
    legal::legalise(graph, &options).unwrap()
}

/// All of the weights are in blocks, and results are those of the reference. A number near a tie of a block's type may fall the other way.
#[test]
fn every_format_through_the_chip() {
    for narrow in ALL {
        for (rows, width, inner, chip) in [
            (1, 1024, 2048, "maia-200"),
            (40, 1024, 512, "maia-200"),
            (300, 256, 544, "maia-200"),
            (3, 96, 224, "mini"),
            (70, 96, 224, "mini"),
        ] {
            let graph = legal(
                &feed_forward(rows, width, inner),
                chip,
                Products::Blocks(narrow),
            );
            let products = graph.nodes.iter().filter(|n| matches!(n.op, Op::Matmul(_)));
            assert!(products.clone().all(|n| n.inputs.len() == 3), "{graph}");
            assert_eq!(products.count(), 2);
            check(&graph, chip, 0.05);
        }
    }
}

/// What does not fall into blocks stays in BF16.
#[test]
fn ragged_weights_stay_wide() {
    for narrow in ALL {
        let graph = legal(&feed_forward(5, 80, 97), "mini", Products::Blocks(narrow));
        let products = graph.nodes.iter().filter(|n| matches!(n.op, Op::Matmul(_)));
        assert!(products.clone().all(|n| n.inputs.len() == 2), "{graph}");
        check(&graph, "mini", 0.05);
    }
}

/// A decoder of every type through the chip, with a past and without; and how far its logits are from those of the model in FP32.
#[test]
fn decoders_of_every_type() {
    let (config, tensors) = tiny::llama();
    let dir = model("narrow-llama", &config, &tiny::file(&tensors).0);
    let error = |graph: &Graph, inputs: &BTreeMap<String, Vec<f64>>, want: &[f64]| {
        let got = evaluate(graph, inputs).unwrap();
        let at = (graph.list(&graph.outputs)).position(|v| v.name == "logits");
        let got = &got[at.unwrap()].values;
        let off = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w));
        let size: f64 = want.iter().map(|w| w * w).sum();
        (off.sum::<f64>() / size).sqrt()
    };
    let exact = Step {
        tokens: 5,
        values: Dtype::F32,
        cache: Dtype::F32,
        ..Step::default()
    };
    let graph = read(&dir.0, exact).unwrap().graph;
    let ids = [3.0, 1.0, 4.0, 1.0, 5.0].to_vec();
    let inputs = BTreeMap::from([("tokens".to_owned(), ids)]);
    let results = evaluate(&graph, &inputs).unwrap();
    let at = (graph.list(&graph.outputs)).position(|v| v.name == "logits");
    let want = results[at.unwrap()].values.clone();
    for (name, products) in Products::ALL {
        for (tokens, past, chip) in [(1, 9, "maia-200"), (5, 0, "mini")] {
            let step = Step {
                tokens,
                past,
                ..Step::default()
            };
            let graph = legal(&read(&dir.0, step).unwrap().graph, chip, products);
            check(&graph, chip, 0.08);
            if past > 0 {
                continue;
            }
            let error = error(&graph, &inputs, &want);
            let bound = match products {
                Products::Faithful | Products::Bf16 => 0.02,
                Products::Fp8 | Products::Blocks(Narrow::Mxfp8 | Narrow::Mxfp6) => 0.1,
                // Random weights in four bits, rows in eight or more, and rows in four bits, too.
                Products::Blocks(Narrow::Nvfp4 | Narrow::W4a8 | Narrow::W4a16) => 0.35,
                Products::Blocks(Narrow::Mxfp4) => 0.45,
            };
            assert!(error < bound, "{name}: {error}");
        }
    }
}

/// Two terms of E4M3 are a row in BF16: what is lost is in the weights alone.
#[test]
fn rows_in_two_terms_are_exact() {
    let (k, n) = (64, 8);
    let numbers: Vec<f32> = (0..k * n).map(|i| normal(7, i)).collect();
    let graph = |blocks: bool| {
        let mut b = Builder::new("terms");
        let x = b.input("x", Dtype::Bf16, &[3, k]).unwrap();
        let w = b.numbers(&numbers, &[k, n]).unwrap();
        let w = match (blocks, &b.value(w).kind) {
            (true, tilewright::compiler::graph::Kind::Constant(data)) => {
                let of = |recipe: Recipe, dtype, shape: [u64; 2]| Source {
                    dtype,
                    shape: shape.to_vec(),
                    data: recipe.data(),
                };
                let source = Source {
                    dtype: Dtype::F32,
                    shape: vec![k, n],
                    data: data.clone(),
                };
                let format = Blocks::Mx(Dtype::E2m1);
                let codes = Recipe::Blocks(source.clone(), format);
                let scales = Recipe::BlockScales(source, format);
                let codes = of(codes, Dtype::E2m1, [k, n]);
                let scales = of(scales, Dtype::U8, [k / 32, n]);
                let whole = Recipe::Scaled(codes, scales).data();
                b.constant("w", Dtype::Bf16, &[k, n], whole).unwrap()
            }
            _ => w,
        };
        let y = b.matmul(x, w, Dtype::F32).unwrap();
        b.output(y, "y").unwrap();
        b.finish().unwrap()
    };
    // Rows far from one, of elements that differ by 2^10, and one of zeros.
    let value = |i: u64| {
        let size = [1e-9, 3e7, 0.0][(i / k) as usize];
        f64::from(normal(3, i)) * size * 2f64.powi(-((i % 11) as i32))
    };
    let inputs = BTreeMap::from([("x".to_owned(), (0..3 * k).map(value).collect())]);
    let products = Products::Blocks(Narrow::W4a16);
    let got = evaluate(&legal(&graph(false), "mini", products), &inputs).unwrap();
    let want = evaluate(&graph(true), &inputs).unwrap();
    for (got, want) in got[0].values.chunks(8).zip(want[0].values.chunks(8)) {
        let size = want.iter().fold(0f64, |m, x| m.max(x.abs()));
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= 2f64.powi(-20) * size, "{g} for {w}");
        }
    }
}

/// What an ONNX file says of quantised operands: numbers of 8 bits less a zero point times scales, weights as they are or transposed.
fn quantised(dtype: Dtype, turned: bool, rows: bool) -> Graph {
    let mut b = Builder::new("quantised");
    let (k, n) = (70, 36);
    let bytes = |seed: u64, count: u64| -> Data {
        let code = |i| match splitmix64(seed, i) as u8 {
            // NaN of E4M3.
            0x7f | 0xff => 0,
            code => code,
        };
        Data::Bytes((0..count).map(code).collect::<Vec<u8>>().into())
    };
    let minus_times = |rows: &mut Rowwise, x: &[StepId]| {
        let moved = match x.get(2) {
            Some(zero) => rows.binary(Binary::Sub, x[0], *zero),
            None => x[0],
        };
        rows.binary(Binary::Mul, moved, x[1])
    };
    let shape = if turned { [n, k] } else { [k, n] };
    let w = b.constant("w", dtype, &shape, bytes(1, k * n)).unwrap();
    let scales: Vec<f32> = (0..n).map(|i| 0.01 + 0.001 * i as f32).collect();
    let per = if turned { [n, 1] } else { [1, n] };
    let s = b.numbers(&scales, &per).unwrap();
    let w = b.elementwise(&[w, s], Dtype::F32, minus_times).unwrap();
    let w = if turned {
        b.transpose(w, &[1, 0]).unwrap()
    } else {
        w
    };
    let x = match rows {
        false => b.input("x", Dtype::F32, &[2, 3, k]).unwrap(),
        true => {
            let x = b.constant("x", dtype, &[2, 3, k], bytes(2, 6 * k)).unwrap();
            let s = b.numbers(&[0.25], &[]).unwrap();
            let mut all = vec![x, s];
            if !dtype.is_float() {
                let zero = Data::Bytes(vec![100].into());
                all.push(b.constant("zero", dtype, &[], zero).unwrap());
            }
            b.elementwise(&all, Dtype::F32, minus_times).unwrap()
        }
    };
    let y = b.matmul(x, w, Dtype::F32).unwrap();
    b.output(y, "y").unwrap();
    b.finish().unwrap()
}

#[test]
fn scales_follow_products_of_quantised_operands() {
    let x: Vec<f64> = (0..6 * 70).map(|i| f64::from(normal(5, i))).collect();
    for (dtype, turned, rows) in [
        (Dtype::I8, false, false),
        (Dtype::I8, true, true),
        (Dtype::U8, false, true),
        (Dtype::E4m3, true, true),
        (Dtype::E4m3, false, false),
    ] {
        let graph = quantised(dtype, turned, rows);
        let legal = legal(&graph, "mini", Products::Faithful);
        let narrow = if dtype.is_float() && rows {
            Dtype::E4m3
        } else {
            Dtype::Bf16
        };
        let node = (legal.nodes.iter()).find(|n| matches!(n.op, Op::Matmul(_)));
        let operands: Vec<_> = legal.list(&node.unwrap().inputs).collect();
        // K of one term, or of the three of an FP32 operand.
        let terms = if rows { 1 } else { 3 };
        assert_eq!(operands[1].dtype, narrow, "{legal}");
        assert_eq!(operands[1].shape, [terms * 70, 36], "{legal}");
        let inputs = match rows {
            true => BTreeMap::new(),
            false => BTreeMap::from([("x".to_owned(), x.clone())]),
        };
        let want = &evaluate(&graph, &inputs).unwrap()[0].values;
        let got = &evaluate(&legal, &inputs).unwrap()[0].values;
        let size = want.iter().fold(0f64, |m, x| m.max(x.abs()));
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() <= 1e-6 * size, "{dtype}: {g} for {w}");
        }
        check(&legal, "mini", 1e-5);
    }
}
