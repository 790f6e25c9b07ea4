//! Products that end in a row-wise program: the same bits as the product and the program one after the other, in every way to run.

use crate::chain::{outputs, weight};
use crate::checker::clean;
use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::compiler::chain;
use tilewright::compiler::epilogue::{Epilogue, fused::Fused};
use tilewright::compiler::graph::{Builder, Graph, Op, ValueId};
use tilewright::compiler::import::blocks;
use tilewright::compiler::legal::{self, Products};
use tilewright::compiler::rowwise::{Binary, Rowwise, Spread, Step, Unary};
use tilewright::compiler::{Matmul, MatmulType, plan};
use tilewright::num::Dtype;

/// What follows a product: scales, bias, activation, residual, the result's type.
#[derive(Clone, Copy, Debug)]
struct End {
    row_scale: bool,
    column_scale: bool,
    bias: bool,
    activation: Option<Unary>,
    residual: Option<Dtype>,
    out: Dtype,
}

const PLAIN: End = End {
    row_scale: false,
    column_scale: false,
    bias: false,
    activation: None,
    residual: None,
    out: Dtype::Bf16,
};

/// A [m, k] by W [k, n], summed to `sum`, and what follows.
fn graph([m, n, k]: [u64; 3], sum: Dtype, end: End) -> Graph {
    let mut b = Builder::new("ended");
    let a = b.input("a", Dtype::Bf16, &[m, k]).unwrap();
    let w = weight(&mut b, "w", &[k, n], 7);
    let c = b.matmul(a, w, sum).unwrap();
    let mut operands = vec![c];
    let mut input = |b: &mut Builder, there: bool, name: &str, dtype, shape: &[u64]| {
        there.then(|| {
            operands.push(b.input(name, dtype, shape).unwrap());
            operands.len() - 1
        })
    };
    let row = input(&mut b, end.row_scale, "row", Dtype::F32, &[m, 1]);
    let column = input(&mut b, end.column_scale, "column", Dtype::F32, &[n]);
    let bias = input(&mut b, end.bias, "bias", Dtype::Bf16, &[n]);
    let beside = end.residual.unwrap_or(Dtype::Bf16);
    let residual = input(&mut b, end.residual.is_some(), "residual", beside, &[m, n]);
    let y = b.rows(Some(1), &operands, |rows, x| {
        let mut y = x[0];
        for scale in [row, column].into_iter().flatten() {
            y = rows.binary(Binary::Mul, y, x[scale]);
        }
        if let Some(bias) = bias {
            y = rows.binary(Binary::Add, y, x[bias]);
        }
        if let Some(f) = end.activation {
            y = rows.unary(f, y);
        }
        if let Some(residual) = residual {
            y = rows.unary(Unary::Cast(Dtype::Bf16), y);
            y = rows.binary(Binary::Add, y, x[residual]);
        }
        vec![(y, end.out, Spread::Full)]
    });
    b.output(y.unwrap()[0], "y").unwrap();
    b.finish().unwrap()
}

/// The graph with all ends of products that can be, and without.
fn both(graph: &Graph, chip: &Chip, products: Products) -> [Graph; 2] {
    let options = legal::Options {
        products,
        ..legal::Options::default()
    };
    let plain = legal::legalise(graph, &options).unwrap();
    let ended = legal::epilogue::epilogues_if(&plain, chip, |_, _| true).unwrap();
    [ended, plain]
}

fn ended(graph: &Graph) -> usize {
    let nodes = graph.nodes.iter();
    nodes.filter(|n| matches!(n.op, Op::Epilogue(_))).count()
}

/// Runs both and compares bit for bit; stages of each.
fn same(graphs: &[Graph; 2], chip: &Chip, what: &str) -> [usize; 2] {
    let chip = Arc::new(chip.clone());
    let runs = graphs.each_ref().map(|graph| {
        let program = chain::compile(graph, &chip, &chain::Options::default()).unwrap();
        clean(graph, &chip, &program);
        let bits = outputs(&program, graph, &chip).into_iter();
        let bits: Vec<Vec<u32>> = bits
            .map(|all| all.iter().map(|x| x.to_bits()).collect())
            .collect();
        (bits, program.stages.len())
    });
    assert_eq!(runs[0].0, runs[1].0, "{what}\n{}", graphs[0]);
    runs.map(|(_, stages)| stages)
}

#[test]
fn ends_of_one_stage() {
    let ends = [
        End {
            row_scale: true,
            column_scale: true,
            ..PLAIN
        },
        End {
            bias: true,
            activation: Some(Unary::Gelu),
            out: Dtype::E4m3,
            ..PLAIN
        },
        End {
            column_scale: true,
            bias: true,
            activation: Some(Unary::Relu),
            out: Dtype::E5m2,
            ..PLAIN
        },
        End {
            row_scale: true,
            activation: Some(Unary::Swish),
            residual: Some(Dtype::Bf16),
            out: Dtype::F32,
            ..PLAIN
        },
        End {
            bias: true,
            activation: Some(Unary::GeluTanh),
            residual: Some(Dtype::F32),
            ..PLAIN
        },
    ];
    // One pass and several, ragged rows and columns, fewer rows of a pass than the pipeline holds.
    let sizes = [[65, 33, 40], [200, 300, 96], [130, 257, 520]];
    for name in ["mini", "maia-200"] {
        let chip = Chip::preset(name).unwrap();
        for (i, end) in ends.into_iter().enumerate() {
            let size = sizes[i % 3];
            let sum = [Dtype::F32, Dtype::Bf16][i % 2];
            let what = format!("{name} {size:?} {sum} {end:?}");
            let graphs = both(&graph(size, sum, end), &chip, Products::Bf16);
            assert_eq!((ended(&graphs[0]), ended(&graphs[1])), (1, 0), "{what}");
            assert_eq!(same(&graphs, &chip, &what), [1, 2], "{what}");
        }
    }
}

/// The scales of FP8 and SwiGLU, in a layer with norms: what reduces rows stays a program, and reads what is rounded.
#[test]
fn ends_in_a_layer() {
    let (rows, width, inner) = (130, 96, 200);
    let mut b = Builder::new("gated");
    let x = b.input("x", Dtype::Bf16, &[rows, width]).unwrap();
    let gain = weight(&mut b, "gain", &[width], 90);
    let normal = blocks::rms_norm(&mut b, x, gain, 1e-5).unwrap();
    let product = |b: &mut Builder, x: ValueId, name: &str, shape: [u64; 2], seed| {
        let w = weight(b, name, &shape, seed);
        b.matmul(x, w, Dtype::Bf16).unwrap()
    };
    let gate = product(&mut b, normal, "gate", [width, inner], 1);
    let up = product(&mut b, normal, "up", [width, inner], 2);
    let y = b.elementwise(&[gate, up], Dtype::Bf16, |rows, x| {
        let gate = rows.unary(Unary::Swish, x[0]);
        rows.binary(Binary::Mul, gate, x[1])
    });
    let down = product(&mut b, y.unwrap(), "down", [inner, width], 3);
    let sum = b.elementwise(&[x, down], Dtype::Bf16, |rows, x| {
        rows.binary(Binary::Add, x[0], x[1])
    });
    let sum = sum.unwrap();
    let normal = blocks::rms_norm(&mut b, sum, gain, 1e-5).unwrap();
    b.output(sum, "sum").unwrap();
    b.output(normal, "normal").unwrap();
    let graph = b.finish().unwrap();
    // On the small chip one of them keeps its program.
    for (name, scaled) in [("mini", 2), ("maia-200", 3)] {
        let chip = Chip::preset(name).unwrap();
        for (products, ends) in [(Products::Bf16, 2), (Products::Fp8, scaled)] {
            let graphs = both(&graph, &chip, products);
            assert!(ended(&graphs[0]) >= ends, "{name}\n{}", graphs[0]);
            assert_eq!(ended(&graphs[1]), 0);
            same(&graphs, &chip, name);
        }
    }
}

/// What others read, too, is no end of the product.
#[test]
fn sums_that_others_read_stay() {
    let mut b = Builder::new("read twice");
    let a = b.input("a", Dtype::Bf16, &[100, 64]).unwrap();
    let w = weight(&mut b, "w", &[64, 48], 7);
    let c = b.matmul(a, w, Dtype::F32).unwrap();
    let y = b.elementwise(&[c], Dtype::Bf16, |rows, x| rows.unary(Unary::Relu, x[0]));
    b.output(y.unwrap(), "y").unwrap();
    b.output(c, "c").unwrap();
    let graph = b.finish().unwrap();
    let chip = Chip::preset("mini").unwrap();
    assert_eq!(ended(&both(&graph, &chip, Products::Bf16)[0]), 0);
}

/// What a product cannot end in.
#[test]
fn programs_of_another_kind() {
    let chip = Chip::preset("mini").unwrap();
    let refused = |program: &Rowwise| Fused::new(program, &chip).err();
    let mut sums = Rowwise::new(100, 100);
    let x = sums.input("x", Dtype::Bf16, Spread::Full);
    sums.output("y", Dtype::F32, x, Spread::Full);
    assert!(refused(&sums).unwrap().contains("sums"));
    sums.inputs[0].dtype = Dtype::F32;
    assert_eq!(refused(&sums), None);
    let mut two = sums.clone();
    two.output("z", Dtype::F32, x, Spread::Full);
    assert!(refused(&two).unwrap().contains("one matrix"));
    let max = sums.step(Step::Reduce(tilewright::compiler::rowwise::Reduce::Max, x));
    sums.outputs[0].step = max;
    assert!(refused(&sums).unwrap().contains("reduces"));
}

/// Every candidate of the search has room for its operands, twice where C has two buffers.
#[test]
fn candidates_hold_their_operands() {
    let chip = Chip::preset("maia-200").unwrap();
    let mut program = Rowwise::new(2000, 1500);
    let x = program.input("x", Dtype::F32, Spread::Full);
    let y = program.input("y", Dtype::Bf16, Spread::Full);
    let z = program.binary(Binary::Add, x, y);
    program.output("z", Dtype::Bf16, z, Spread::Full);
    let epilogue = Epilogue::fused(Fused::new(&program, &chip).unwrap());
    let op = Matmul {
        out: Dtype::F32,
        ..Matmul::new(2000, 1500, 500, MatmulType::Bf16)
    };
    let mut seen = [0; 3];
    plan::visit_with(&op, &epilogue, &chip, &mut |t| {
        let beside = epilogue.tsram_bytes(t.rows.pass(), t.cols.pass());
        assert_eq!(
            beside,
            (t.rows.pass() * t.cols.pass() * 4).next_multiple_of(256)
        );
        let ring = t.ring * (t.a_bytes + t.b_bytes);
        let used = t.c_buffers * (t.c_bytes + beside) + if t.resident { 0 } else { ring };
        assert!(used <= chip.tsram.size_bytes);
        seen[t.c_buffers as usize] += 1;
    });
    assert!(seen[1] > 0 && seen[2] > 0, "{seen:?}");
}
