//! Whole graphs compiled and run: results against an f64 evaluation, all ways to run alike, nothing unordered.

use std::collections::BTreeMap;
use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::compiler::chain::{self, Program};
use tilewright::compiler::graph::{Attention, Builder, Data, Graph, Kind, ValueId};
use tilewright::compiler::import::blocks;
use tilewright::compiler::legal::{self, Products};
use tilewright::compiler::rowwise::{Binary, Unary};
use tilewright::isa::image::Class;
use tilewright::machine::{
    LoadOptions, Machine, SanitizeOptions, UntimedLimits, run_untimed, sanitize,
};
use tilewright::num::random::normal;
use tilewright::num::{Dtype, Overflow, Rounding, encode_slice};
use tilewright::reference::graph::evaluate;
use tilewright::timing::{self, TimedOptions};

/// N(0,1) codes of a type.
fn codes(dtype: Dtype, count: u64, seed: u64, scale: f32) -> Vec<u8> {
    let values: Vec<f32> = (0..count).map(|i| scale * normal(seed, i)).collect();
    let mut bytes = vec![0; dtype.bytes_for(count) as usize];
    encode_slice(
        dtype,
        &values,
        &mut bytes,
        Rounding::Rne,
        Overflow::Saturate,
    );
    bytes
}

/// A constant of random numbers.
pub fn weight(b: &mut Builder, name: &str, shape: &[u64], seed: u64) -> ValueId {
    let count = shape.iter().product();
    let scale = 1.0 / (shape[0] as f32).sqrt();
    let data = Data::Bytes(codes(Dtype::Bf16, count, seed, scale).into());
    b.constant(name, Dtype::Bf16, shape, data).unwrap()
}

fn machine(program: &Program, graph: &Graph, chip: &Arc<Chip>) -> Machine {
    let image = Arc::new(program.image.clone());
    let mut machine = Machine::load(chip.clone(), image, &LoadOptions::default()).unwrap();
    for constant in &program.constants {
        let bytes = constant.bytes().unwrap();
        machine.set_tensor(&constant.symbol, &bytes).unwrap();
    }
    give(&mut machine, program, graph);
    machine
}

/// Sets the inputs: without data those that steer the program, such as ids, which say what is read and so when it is there.
fn give(machine: &mut Machine, program: &Program, graph: &Graph) {
    for (n, binding) in program.inputs.iter().enumerate() {
        let tensor = program.image.tensor(&binding.symbol);
        if machine.data || tensor.is_some_and(|t| t.class == Class::Control) {
            let count = graph[graph.inputs[n]].elements();
            let bytes = codes(binding.dtype, count, n as u64, 1.0);
            machine.set_tensor_rows(&binding.symbol, &bytes).unwrap();
        }
    }
}

/// The outputs of a program, run in every way.
pub fn outputs(program: &Program, graph: &Graph, chip: &Arc<Chip>) -> Vec<Vec<f32>> {
    let mut machine = machine(program, graph, chip);
    let timed = timing::run(machine.clone(), &TimedOptions::default()).unwrap();
    let options = LoadOptions {
        data: false,
        ..LoadOptions::default()
    };
    let mut empty = Machine::load(chip.clone(), machine.image.clone(), &options).unwrap();
    give(&mut empty, program, graph);
    let empty = timing::run(empty, &TimedOptions::default()).unwrap();
    assert_eq!(empty.cycles, timed.cycles);
    let symbols = |list: &[chain::Binding]| -> Vec<String> {
        list.iter().map(|b| b.symbol.clone()).collect()
    };
    let mut given = symbols(&program.inputs);
    given.extend(program.constants.iter().map(|c| c.symbol.clone()));
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let options = SanitizeOptions {
        given: &given,
        ..SanitizeOptions::default()
    };
    let sanitized = sanitize(&machine, &options);
    sanitized.result.unwrap();
    assert!(
        sanitized.findings.reports.is_empty(),
        "{}",
        sanitized.findings
    );
    run_untimed(&mut machine, &UntimedLimits::default()).unwrap();
    let read = |symbol: &String| {
        let bytes = |m: &Machine| m.tensor_bytes(symbol).unwrap();
        assert_eq!(bytes(&machine), bytes(&timed.machine), "{symbol}");
        machine.tensor_f32(symbol).unwrap()
    };
    symbols(&program.outputs).iter().map(read).collect()
}

/// Compiles and runs a graph; every output is within `tolerance` of its largest number.
pub fn check(graph: &Graph, chip: &str, tolerance: f64) -> Program {
    let chip = Arc::new(Chip::preset(chip).unwrap());
    let program = chain::compile(graph, &chip, &chain::Options::default()).unwrap();
    crate::checker::clean(graph, &chip, &program);
    let mut inputs = BTreeMap::new();
    for (n, id) in graph.inputs.iter().enumerate() {
        let value = &graph[*id];
        assert_eq!(value.kind, Kind::Input);
        let bytes = codes(value.dtype, value.elements(), n as u64, 1.0);
        let decoded = tilewright::reference::graph::decode(value.dtype, value.elements(), &bytes);
        inputs.insert(value.name.clone(), decoded);
    }
    let expected = evaluate(graph, &inputs).unwrap();
    for (got, want) in outputs(&program, graph, &chip).iter().zip(&expected) {
        let largest = want.values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert_eq!(got.len(), want.values.len());
        for (i, (g, w)) in got.iter().zip(&want.values).enumerate() {
            let error = (f64::from(*g) - w).abs();
            assert!(error <= tolerance * largest, "element {i}: {g} for {w}");
        }
    }
    program
}

/// A layer of two products with a norm, an activation and a residual.
pub fn feed_forward(rows: u64, width: u64, inner: u64) -> Graph {
    let mut b = Builder::new("feed forward");
    let x = b.input("x", Dtype::Bf16, &[rows, width]).unwrap();
    let gain = weight(&mut b, "gain", &[width], 90);
    let normal = blocks::rms_norm(&mut b, x, gain, 1e-5).unwrap();
    let up = weight(&mut b, "up", &[width, inner], 91);
    let down = weight(&mut b, "down", &[inner, width], 92);
    let y = b.matmul(normal, up, Dtype::Bf16).unwrap();
    let y = b
        .elementwise(&[y], Dtype::Bf16, |rows, x| rows.unary(Unary::Swish, x[0]))
        .unwrap();
    let y = b.matmul(y, down, Dtype::Bf16).unwrap();
    let y = b
        .elementwise(&[x, y], Dtype::Bf16, |rows, x| {
            rows.binary(Binary::Add, x[0], x[1])
        })
        .unwrap();
    b.output(y, "y").unwrap();
    b.finish().unwrap()
}

#[test]
fn products_and_rows() {
    let program = check(&feed_forward(70, 96, 200), "mini", 0.02);
    assert_eq!(program.stages.len(), 5);
    check(&feed_forward(300, 256, 512), "maia-200", 0.02);
    check(&feed_forward(3, 64, 64), "maia-200", 0.02);
}

/// Products of few rows take their weights from the stream; their parts of K are added by who reads them. In FP8, too.
#[test]
fn streamed_weights() {
    let chip = Chip::preset("maia-200").unwrap();
    for (rows, products) in [(1, Products::Bf16), (2, Products::Fp8), (40, Products::Fp8)] {
        let options = legal::Options {
            products,
            sibling_rows: 64,
            chip: Some(chip.clone()),
        };
        let graph = legal::legalise(&feed_forward(rows, 1024, 2048), &options).unwrap();
        let program = check(&graph, "maia-200", 0.05);
        let streamed = program
            .constants
            .iter()
            .filter(|c| c.symbol.contains(".layer"));
        assert_eq!(streamed.count(), 2);
        // Small sums lie in the SRAM of every tile, and row-wise stages that read such begin ahead.
        let sums = if rows < 40 { "tsram" } else { "hbm" };
        let declared = format!(".tensor linear_0_C, {sums}, ");
        let shown = program.text.lines().filter(|l| l.contains("_C,"));
        assert!(
            program.text.contains(&declared),
            "{rows} rows: {:?}",
            shown.collect::<Vec<_>>()
        );
        assert_eq!(
            program.text.contains(".scope ahead"),
            rows < 40,
            "{rows} rows"
        );
    }
}

/// A sum of parts that a concatenation wants is made where it lies there.
#[test]
fn streamed_products_side_by_side() {
    let mut b = Builder::new("side by side");
    let x = b.input("x", Dtype::Bf16, &[1, 2048]).unwrap();
    let both = [1, 2].map(|seed| {
        let w = weight(&mut b, &format!("w{seed}"), &[2048, 96], seed);
        b.matmul(x, w, Dtype::F32).unwrap()
    });
    let y = b.concat(&both, 1).unwrap();
    b.output(y, "y").unwrap();
    check(&b.finish().unwrap(), "maia-200", 1e-5);
}

/// A view that has to be copied is made where a concatenation wants it.
#[test]
fn a_transposed_value_in_a_concatenation() {
    let mut b = Builder::new("transposed");
    let x = b.input("x", Dtype::F32, &[2, 2]).unwrap();
    let t = b.transpose(x, &[1, 0]).unwrap();
    let flat = b.reshape(t, &[4]).unwrap();
    let both = b.concat(&[x, t], 0).unwrap();
    b.output(flat, "flat").unwrap();
    b.output(both, "both").unwrap();
    let program = check(&b.finish().unwrap(), "mini", 0.0);
    assert!(!program.stages.is_empty());
}

/// More stages than there are semaphores of stages, and memory that is used again.
#[test]
fn a_long_chain() {
    let mut b = Builder::new("long");
    let x = b.input("x", Dtype::Bf16, &[33, 64]).unwrap();
    let mut y = x;
    for layer in 0..20 {
        let w = weight(&mut b, &format!("w{layer}"), &[64, 64], layer);
        y = b.matmul(y, w, Dtype::Bf16).unwrap();
        y = b
            .elementwise(&[y], Dtype::Bf16, |rows, x| rows.unary(Unary::Relu, x[0]))
            .unwrap();
    }
    b.output(y, "y").unwrap();
    let graph = b.finish().unwrap();
    check(&graph, "mini", 0.05);
    check(&graph, "maia-200", 0.05);
}

/// Attention over a cache that grows where it is.
pub fn grown_cache(batch: u64, tokens: u64, past: u64) -> Graph {
    let mut b = Builder::new("attention");
    let (heads, dim) = (4, 32);
    let q = b
        .input("query", Dtype::Bf16, &[batch, tokens, heads, dim])
        .unwrap();
    let mut all = Vec::new();
    for name in ["key", "value"] {
        let old = b
            .input(&format!("past_{name}"), Dtype::Bf16, &[batch, past, 2, dim])
            .unwrap();
        let new = b
            .input(
                &format!("new_{name}"),
                Dtype::Bf16,
                &[batch, tokens, 2, dim],
            )
            .unwrap();
        let new = b
            .elementwise(&[new], Dtype::Bf16, |rows, x| rows.unary(Unary::Neg, x[0]))
            .unwrap();
        all.push(b.concat(&[old, new], 1).unwrap());
    }
    let op = Attention {
        dtype: Dtype::Bf16,
        scale: 1.0 / (dim as f32).sqrt(),
        causal: Some(past as i64),
        window: None,
        softcap: None,
        mask: false,
        sinks: false,
        lengths: false,
    };
    let o = b.attention(op, &[q, all[0], all[1]]).unwrap();
    b.output(o, "o").unwrap();
    b.finish().unwrap()
}

#[test]
fn attention_with_a_cache() {
    for (batch, tokens, past) in [(1, 1, 40), (1, 5, 64), (2, 1, 33)] {
        let program = check(&grown_cache(batch, tokens, past), "maia-200", 0.02);
        if batch == 1 {
            // Two programs that negate, and attention: nothing is copied.
            assert_eq!(program.stages.len(), 3);
        }
    }
}

/// Causal attention of the last `tokens` of `keys`, as a layer of a decoder has it: [heads, heads of K, elements of K, of V].
fn many_queries(
    dtype: Dtype,
    [tokens, keys]: [u64; 2],
    [heads, kv_heads, dim, v_dim]: [u64; 4],
    change: impl Fn(&mut Attention),
) -> Graph {
    let mut b = Builder::new("attention of many queries");
    let mut operands = Vec::new();
    for (name, shape) in [
        ("query", [1, tokens, heads, dim]),
        ("key", [1, keys, kv_heads, dim]),
        ("value", [1, keys, kv_heads, v_dim]),
    ] {
        let x = b.input(name, Dtype::Bf16, &shape).unwrap();
        let made = b.elementwise(&[x], dtype, |rows, x| rows.unary(Unary::Neg, x[0]));
        operands.push(made.unwrap());
    }
    let mut op = Attention {
        dtype: Dtype::Bf16,
        scale: 1.0 / (dim as f32).sqrt(),
        causal: Some((keys - tokens) as i64),
        window: None,
        softcap: None,
        mask: false,
        sinks: false,
        lengths: false,
    };
    change(&mut op);
    if op.sinks {
        operands.push(b.input("sinks", Dtype::F32, &[heads]).unwrap());
    }
    let o = b.attention(op, &operands).unwrap();
    b.output(o, "o").unwrap();
    b.finish().unwrap()
}

/// Prefill as gpt-oss and DeepSeek have it: all tokens at once, and after a past.
#[test]
fn many_queries_with_windows_sinks_and_short_values() {
    let (gpt_oss, deepseek) = ([8, 2, 64, 64], [4, 4, 192, 128]);
    let window = |op: &mut Attention| (op.window, op.sinks) = (Some(40), true);
    let sinks = |op: &mut Attention| op.sinks = true;
    let scaled = |op: &mut Attention| op.scale = 0.1;
    for (dtype, tolerance) in [(Dtype::Bf16, 0.02), (Dtype::E4m3, 0.08)] {
        for [tokens, keys] in [[150, 150], [70, 170]] {
            let graph = |heads, change: &dyn Fn(&mut Attention)| {
                many_queries(dtype, [tokens, keys], heads, change)
            };
            for graph in [
                graph(gpt_oss, &window),
                graph(gpt_oss, &sinks),
                graph(deepseek, &scaled),
            ] {
                let chip = Chip::preset("maia-200").unwrap();
                let options = legal::Options {
                    products: Products::Faithful,
                    sibling_rows: 64,
                    chip: Some(chip),
                };
                let legal = legal::legalise(&graph, &options).unwrap();
                let program = check(&legal, "maia-200", tolerance);
                // Three programs that negate, and attention: no products for it.
                assert_eq!(program.stages.len(), 4);
            }
        }
    }
}

/// Padded sequences: what a mask or lengths hide from all queries of a batch element.
#[test]
fn many_queries_with_hidden_keys() {
    let chip = Chip::preset("maia-200").unwrap();
    for (_, legal) in crate::legal::attention::hidden_keys_for_the_kernel(&chip) {
        check(&legal, "maia-200", 0.02);
    }
}

/// Names of a graph that mean something in the assembler, or that programs of chains give themselves.
#[test]
fn any_name_of_a_value_makes_a_program() {
    let names = [
        "r1",
        "s0",
        "v31",
        "p7",
        "zero",
        "ra",
        "_",
        "x",
        "Y",
        "me",
        "buf",
        "end",
        "stride",
        "data",
        "table",
        "ROW",
        "linear_weights",
        "linear_ring",
        "linear_start.me",
        "linear_fill_0",
        "stage_marks",
        "stage_done",
        "stage_end",
        "marks",
        "all_done",
        "stage0.x",
        "stage0",
        "w.layer0",
        "li",
        "addr",
        "1st",
        "",
        ".L1",
        "a b",
        "\u{e9}\u{2603}",
        "li",
        "li",
    ];
    let mut b = Builder::new("names");
    let w = weight(&mut b, "w", &[64, 64], 1);
    let mut sum = None;
    for name in names {
        let input = b.input(name, Dtype::Bf16, &[2, 64]);
        // Inputs have different names, as files have.
        let input = input
            .or_else(|_| b.input(&format!("{name}2"), Dtype::Bf16, &[2, 64]))
            .unwrap_or_else(|_| b.input(&format!("{name}3"), Dtype::Bf16, &[2, 64]).unwrap());
        sum = Some(match sum {
            None => input,
            Some(sum) => b
                .elementwise(&[sum, input], Dtype::Bf16, |r, x| {
                    r.binary(Binary::Add, x[0], x[1])
                })
                .unwrap(),
        });
    }
    let product = b.matmul(sum.unwrap(), w, Dtype::F32).unwrap();
    b.output(product, "linear_weights").unwrap();
    let graph = b.finish().unwrap();
    let chip = Chip::preset("maia-200").unwrap();
    let options = legal::Options {
        chip: Some(chip.clone()),
        ..legal::Options::default()
    };
    let graph = legal::legalise(&graph, &options).unwrap();
    let program = chain::compile(&graph, &chip, &chain::Options::default()).unwrap();
    let symbols: std::collections::BTreeSet<&str> = program
        .image
        .tensors
        .iter()
        .map(|t| t.name.as_str())
        .collect();
    assert_eq!(symbols.len(), program.image.tensors.len());
    assert!(symbols.contains("x") && symbols.contains("Y") && !symbols.contains("zero"));
    // What is printed is read again.
    let text = tilewright::asm::disassemble(&program.image);
    let none = |_: &str| Err(std::io::Error::other("no includes"));
    tilewright::asm::assemble_text("again.s", &text, &none)
        .unwrap_or_else(|e| panic!("{e:?}\n{text}"));
}
