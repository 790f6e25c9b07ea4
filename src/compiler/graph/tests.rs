//! Graphs that are wrong, and the words that say so.

use super::*;
use crate::chip::Chip;
use crate::compiler::rowwise::{Binary, Spread, Unary};

/// y = relu(x w) + x, with places "product" and "rest".
fn sample() -> Graph {
    let mut b = Builder::new("sample");
    let x = b.input("x", Dtype::Bf16, &[4, 8]).unwrap();
    let bytes: Arc<[u8]> = vec![0; 128].into();
    let w = b
        .constant("w", Dtype::Bf16, &[8, 8], Data::Bytes(bytes))
        .unwrap();
    b.at("product");
    let product = b.matmul(x, w, Dtype::F32).unwrap();
    b.at("rest");
    let y = b
        .elementwise(&[product, x], Dtype::Bf16, |rows, x| {
            let relu = rows.unary(Unary::Relu, x[0]);
            rows.binary(Binary::Add, relu, x[1])
        })
        .unwrap();
    b.output(y, "y").unwrap();
    b.finish().unwrap()
}

fn refused(change: impl FnOnce(&mut Graph), words: &[&str]) {
    let mut graph = sample();
    change(&mut graph);
    let error = graph.verify(None).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{error} for {word}");
    }
}

#[test]
fn a_graph_is_printed_and_verified() {
    let graph = sample();
    graph
        .verify(Some(&Chip::preset("maia-200").unwrap()))
        .unwrap();
    let text = graph.to_string();
    for word in [
        "graph sample: 2 nodes",
        "input   x: bf16 [4, 8]",
        "1 constants of 128 bytes",
        "f32 [4, 8] = matmul(x, w)  ; product",
        "y: bf16 [4, 8] = rowwise",
        "output  y: bf16 [4, 8]",
    ] {
        assert!(text.contains(word), "{text} for {word}");
    }
}

#[test]
fn every_broken_rule_names_node_and_value() {
    refused(
        |g| g.nodes.swap(0, 1),
        &["rest", "before anything makes it"],
    );
    refused(
        |g| g.nodes[0].inputs[0] = g.outputs[0],
        &["product", "`y` is used before"],
    );
    refused(
        |g| g.nodes[1].outputs = g.nodes[0].outputs.clone(),
        &["rest", "made twice"],
    );
    refused(
        |g| g.nodes[0].inputs[0] = ValueId(99),
        &["product", "value 99"],
    );
    refused(|g| drop(g.nodes.pop()), &["sample", "nothing makes `y`"]);
    refused(
        |g| g.nodes[0].inputs.truncate(1),
        &["product", "1 operands, 2 wanted"],
    );
    refused(
        |g| g.values[0].shape = vec![4, 9],
        &["product", "[4, 9] and [8, 8]"],
    );
    refused(|g| g.values[0].shape = vec![4, 0], &["`x`", "[4, 0]"]);
    refused(|g| g.values[0].shape = vec![1 << 31; 3], &["`x`", "2^58"]);
    refused(|g| g.values[0].shape = vec![1; 17], &["`x`", "16 axes"]);
    refused(
        |g| g.values[0].dtype = Dtype::I32,
        &["product", "`x` is i32"],
    );
    refused(
        |g| g.values[1].shape = vec![8, 9],
        &["`w` of 144 bytes holds 128"],
    );
    refused(|g| g.outputs.clear(), &["`y`"]);
    refused(
        |g| {
            let id = g.nodes[0].inputs[0];
            g.nodes[0].op = Op::Layout(View::slice(&[4, 8], 1, 4, 1, 5));
            g.nodes[0].inputs = vec![id];
            let out = g.nodes[0].outputs[0];
            g.values[out.0 as usize] = Value {
                name: "v".into(),
                dtype: Dtype::Bf16,
                shape: vec![4, 5],
                kind: Kind::Intermediate,
            };
        },
        &["product", "reads elements 4 to 32 of `x`, which has 32"],
    );
}

#[test]
fn what_does_not_fit_hbm_says_by_how_much() {
    let chip = Chip::preset("mini").unwrap();
    let limit = chip.hbm_bytes();
    let mut b = Builder::new("big");
    let x = b.input("x", Dtype::I8, &[limit / 1024, 1024]).unwrap();
    let y = b.slice(x, 0, 0, 1, 1).unwrap();
    b.output(y, "y").unwrap();
    let error = b.finish().unwrap().verify(Some(&chip)).unwrap_err();
    assert!(error.to_string().ends_with(": 1024 too many"), "{error}");
}

#[test]
fn attention_states_its_rules() {
    let op = Attention {
        dtype: Dtype::Bf16,
        scale: 0.125,
        causal: Some(3),
        window: Some(2),
        softcap: None,
        mask: true,
        sinks: true,
        lengths: true,
    };
    let refused = |op: Attention, heads: u64, word: &str| {
        let mut b = Builder::new("attention");
        let mut ids = Vec::new();
        for (name, dtype, shape) in [
            ("q", Dtype::Bf16, vec![2, 4, heads, 16]),
            ("k", Dtype::Bf16, vec![2, 7, 2, 16]),
            ("v", Dtype::Bf16, vec![2, 7, 2, 8]),
            ("mask", Dtype::U8, vec![1, heads, 4, 7]),
            ("sinks", Dtype::F32, vec![heads]),
            ("lengths", Dtype::I32, vec![2]),
        ] {
            ids.push(b.input(name, dtype, &shape).unwrap());
        }
        let made = b.attention(op, &ids).map(|id| b.shape(id).to_vec());
        match (word, made) {
            ("", made) => assert_eq!(made, Ok(vec![2, 4, heads, 8])),
            (word, made) => {
                let error = made.unwrap_err().to_string();
                assert!(error.contains(word), "{error} for {word}");
            }
        }
    };
    refused(op.clone(), 4, "");
    refused(op.clone(), 3, "no multiple");
    let with = |change: fn(&mut Attention)| {
        let mut op = op.clone();
        change(&mut op);
        op
    };
    refused(with(|op| op.mask = false), 4, "6 operands, 5 wanted");
    refused(with(|op| op.causal = None), 4, "window is 2");
    refused(with(|op| op.softcap = Some(0.0)), 4, "softcap is 0");
    refused(with(|op| op.scale = f32::NAN), 4, "scale is NaN");
}

#[test]
fn grouped_products_state_their_rules() {
    let refused = |x: [u64; 2], rows: u64, fan: u64, scales: &[u64], word: &str| {
        let mut b = Builder::new("grouped");
        let mut ids = Vec::new();
        for (name, dtype, shape) in [
            ("x", Dtype::Bf16, &x[..]),
            ("ids", Dtype::I32, &[rows]),
            ("w", Dtype::E2m1, &[4, 64, 8]),
            ("scales", Dtype::U8, scales),
        ] {
            ids.push(b.input(name, dtype, shape).unwrap());
        }
        let dtype = Dtype::F32;
        let made = b.grouped(Grouped { dtype, fan }, &ids);
        match (word, made.map(|id| b.shape(id).to_vec())) {
            ("", made) => assert_eq!(made, Ok(vec![rows, 8])),
            (word, made) => {
                let error = made.unwrap_err().to_string();
                assert!(error.contains(word), "{error} for {word}");
            }
        }
    };
    let scales = [4, 2, 8];
    refused([3, 64], 6, 2, &scales, "");
    refused([6, 64], 6, 1, &[4, 64, 8], "");
    refused([3, 64], 6, 0, &scales, "fan is 0");
    refused([3, 64], 6, 4, &scales, "fan is 4; it must be a divisor");
    refused(
        [2, 64],
        6,
        2,
        &scales,
        "`x` has shape [2, 64]; wanted [3, 64]",
    );
    refused(
        [3, 32],
        6,
        2,
        &scales,
        "`x` has shape [3, 32]; wanted [3, 64]",
    );
    refused([3, 64], 6, 2, &[4, 3, 8], "`scales` has shape [4, 3, 8]");
    refused([3, 64], 6, 2, &[3, 2, 8], "wanted [4, 2, 8]");
}

#[test]
fn unused_nodes_and_constants_are_dropped() {
    let mut b = Builder::new("dead");
    let x = b.input("x", Dtype::F32, &[3, 5]).unwrap();
    let two = b.numbers(&[2.0], &[]).unwrap();
    b.elementwise(&[x, two], Dtype::F32, |rows, x| {
        rows.binary(Binary::Mul, x[0], x[1])
    })
    .unwrap();
    let sums = b.rows(Some(1), &[x], |rows, x| {
        let sum = rows.reduce(crate::compiler::rowwise::Reduce::Sum, x[0]);
        vec![(sum, Dtype::F32, Spread::PerRow)]
    });
    b.output(sums.unwrap()[0], "sums").unwrap();
    b.output(x, "copy").unwrap();
    let graph = b.finish().unwrap();
    assert_eq!((graph.nodes.len(), graph.constants().count()), (2, 0));
    let shapes: Vec<&[u64]> = graph.list(&graph.outputs).map(|v| &v.shape[..]).collect();
    assert_eq!(shapes, [&[3][..], &[3, 5]]);
}
