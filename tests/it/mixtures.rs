//! Mixtures of experts as programs: small checkpoints of every family against an f64 evaluation, with the router's choice and with a table's,
//! all ways to run alike, nothing unordered.

use crate::families::tiny::{Tensors, deepseek, file, gpt_oss, mixtral, qwen3_moe};
use crate::hf::model;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tilewright::chip::Chip;
use tilewright::compiler::chain::routing::Routing;
use tilewright::compiler::chain::{self, Program};
use tilewright::compiler::graph::{Graph, Op, Value};
use tilewright::compiler::import::hf::config::Config;
use tilewright::compiler::import::hf::weights::Weights;
use tilewright::compiler::import::hf::{Step, decoder, read};
use tilewright::compiler::legal::{self, Products};
use tilewright::isa::image::Class;
use tilewright::machine::{
    LoadOptions, Machine, SanitizeOptions, UntimedLimits, run_untimed, sanitize,
};
use tilewright::num::Dtype;
use tilewright::num::random::normal;
use tilewright::num::{Overflow, Rounding, encode_slice};
use tilewright::reference::graph::{decode, evaluate};
use tilewright::timing::{self, TimedOptions};

/// What a program is given: ids of tokens, all else from N(0,1).
fn given(value: &Value, seed: u64) -> Vec<u8> {
    let count = value.elements();
    if value.dtype == Dtype::I32 {
        let id = |i: u64| (i * 7 + 3) as i32 % 11;
        return (0..count).flat_map(|i| id(i).to_le_bytes()).collect();
    }
    let values: Vec<f32> = (0..count).map(|i| normal(seed, i)).collect();
    let mut bytes = vec![0; value.dtype.bytes_for(count) as usize];
    let (rne, saturate) = (Rounding::Rne, Overflow::Saturate);
    encode_slice(value.dtype, &values, &mut bytes, rne, saturate);
    bytes
}

fn machine(program: &Program, graph: &Graph, chip: &Arc<Chip>, data: bool) -> Machine {
    let image = Arc::new(program.image.clone());
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    let mut machine = Machine::load(chip.clone(), image, &options).unwrap();
    let kept = |machine: &Machine, symbol: &str| {
        data || machine.image.tensor(symbol).unwrap().class == Class::Control
    };
    for constant in &program.constants {
        if kept(&machine, &constant.symbol) {
            let bytes = constant.bytes().unwrap();
            machine.set_tensor(&constant.symbol, &bytes).unwrap();
        }
    }
    for (n, binding) in program.inputs.iter().enumerate() {
        if kept(&machine, &binding.symbol) {
            let bytes = given(&graph[graph.inputs[n]], n as u64);
            machine.set_tensor_rows(&binding.symbol, &bytes).unwrap();
        }
    }
    machine
}

/// A family's step as a program, run in every way; its logits against those of the graph that was imported.
fn check(
    name: &str,
    (config, tensors): &(Json, Tensors),
    step: Step,
    (products, routing): (Products, Option<Routing>),
    chip: &str,
    tolerance: f64,
) {
    let what = format!("{name} on {chip}, {step:?}, {products:?}, {routing:?}");
    let chip = Arc::new(Chip::preset(chip).unwrap());
    let dir = model(
        &format!("mix-{name}-{}", what.len()),
        config,
        &file(tensors).0,
    );
    let graph = read(&dir.0, step).unwrap().graph;
    assert!(graph.nodes.iter().any(|n| matches!(n.op, Op::Grouped(_))));
    let options = legal::Options {
        products,
        sibling_rows: 64,
        chip: Some((*chip).clone()),
    };
    let legal = legal::legalise(&graph, &options).unwrap();
    let options = chain::Options {
        routing: routing.clone(),
        ..chain::Options::default()
    };
    let program = chain::compile(&legal, &chip, &options).unwrap_or_else(|e| panic!("{what}: {e}"));

    let mut inputs = BTreeMap::new();
    for (n, id) in graph.inputs.iter().enumerate() {
        let value = &graph[*id];
        let decoded = decode(value.dtype, value.elements(), &given(value, n as u64));
        inputs.insert(value.name.clone(), decoded);
    }
    let wanted = match &routing {
        Some(routing) => routing.put(&graph).unwrap(),
        None => graph.clone(),
    };
    let results = evaluate(&wanted, &inputs).unwrap();
    let at = wanted
        .list(&wanted.outputs)
        .position(|v| v.name == "logits")
        .unwrap();

    let mut fresh = machine(&program, &graph, &chip, true);
    let timed = timing::run(fresh.clone(), &TimedOptions::default()).unwrap();
    if routing.is_some() {
        let empty = machine(&program, &graph, &chip, false);
        let empty = timing::run(empty, &TimedOptions::default()).unwrap();
        assert_eq!(empty.cycles, timed.cycles, "{what}");
    }
    let constants = program.constants.iter().map(|c| c.symbol.as_str());
    let names: Vec<&str> = program
        .inputs
        .iter()
        .map(|b| b.symbol.as_str())
        .chain(constants)
        .collect();
    let options = SanitizeOptions {
        given: &names,
        ..SanitizeOptions::default()
    };
    let sanitized = sanitize(&fresh, &options);
    sanitized.result.unwrap();
    let found = sanitized.findings;
    assert!(found.reports.is_empty(), "{what}: {found}");
    run_untimed(&mut fresh, &UntimedLimits::default()).unwrap();
    let symbol = &program.outputs[at].symbol;
    let bytes = |m: &Machine| m.tensor_bytes(symbol).unwrap();
    assert_eq!(bytes(&fresh), bytes(&timed.machine), "{what}");

    let (got, want) = (fresh.tensor_f32(symbol).unwrap(), &results[at].values);
    let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(largest > 1e-3 && got.len() == want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        let error = (f64::from(*g) - w).abs() / largest;
        assert!(error <= tolerance, "{what}: {g} for {w}: {got:?}, {want:?}");
    }
}

/// Values in FP32, so that only rounding inside of products and vector functions differs.
fn step(tokens: u64, past: u64) -> Step {
    Step {
        tokens,
        past,
        values: Dtype::F32,
        cache: Dtype::F32,
        ..Step::default()
    }
}

#[test]
fn routers_choose_on_the_chip() {
    let faithful = || (Products::Faithful, None);
    for (name, family) in [
        ("mixtral", mixtral()),
        ("qwen3-moe", qwen3_moe(true)),
        ("gpt-oss", gpt_oss(false)),
        ("gpt-oss-mxfp4", gpt_oss(true)),
        ("deepseek", deepseek()),
    ] {
        check(name, &family, step(5, 0), faithful(), "mini", 1e-3);
        check(name, &family, step(1, 4), faithful(), "mini", 1e-3);
    }
    check(
        "mixtral",
        &mixtral(),
        step(1, 3),
        faithful(),
        "maia-200",
        1e-3,
    );
}

#[test]
fn tables_choose_in_place_of_routers() {
    let balanced = (Products::Faithful, Some(Routing::Balanced));
    check(
        "qwen3-moe",
        &qwen3_moe(false),
        step(1, 4),
        balanced,
        "maia-200",
        1e-3,
    );
    let zipf = Routing::Zipf { s: 1.1, seed: 3 };
    let zipf = (Products::Faithful, Some(zipf));
    check(
        "gpt-oss",
        &gpt_oss(false),
        step(4, 0),
        zipf.clone(),
        "mini",
        1e-3,
    );
    check("deepseek", &deepseek(), step(3, 0), zipf, "mini", 1e-3);
    let table = Routing::Table {
        name: "table".to_owned(),
        lines: vec![(1, vec![4, 0]), (2, vec![1, 4])],
    };
    let table = (Products::Faithful, Some(table));
    check("mixtral", &mixtral(), step(3, 0), table, "mini", 1e-3);
}

/// Rows enough that all tiles sort them, for two products of each layer, the second with the lists of the first.
#[test]
fn many_tokens() {
    let skewed = Routing::Zipf { s: 1.0, seed: 5 };
    let skewed = (Products::Faithful, Some(skewed));
    let routed = (Products::Faithful, None);
    check("mixtral", &mixtral(), step(90, 0), skewed, "mini", 1e-3);
    check(
        "qwen3-moe",
        &qwen3_moe(true),
        step(80, 0),
        routed,
        "mini",
        1e-3,
    );
}

/// No program is faster than its lower bound, and none of its operations than its own but those whose weights come before their turn: with windows
/// that see little of a long cache, experts that few of a table's tokens take, sinks, latents.
#[test]
fn bounds_are_below_what_is_reached() {
    let maia = Arc::new(Chip::preset("maia-200").unwrap());
    let with = |config: Json, more: Json| {
        let mut config = config;
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    };
    let one = Routing::Table {
        name: "one".to_owned(),
        lines: vec![(1, vec![0, 1])],
    };
    let window = json!({
        "num_hidden_layers": 1, "num_key_value_heads": 8, "num_attention_heads": 8, "head_dim": 64, "sliding_window": 128,
        "layer_types": ["sliding_attention"],
    });
    let wide = json!({
        "num_hidden_layers": 1, "hidden_size": 1024, "intermediate_size": 4096, "num_local_experts": 16,
    });
    let plain = json!({});
    for (name, config, tokens, batch, past, routing) in [
        (
            "window",
            with(gpt_oss(false).0, window),
            1,
            1,
            2_000_000,
            Routing::Balanced,
        ),
        ("sinks", gpt_oss(true).0, 4, 2, 0, Routing::Balanced),
        ("table", with(mixtral().0, wide), 1, 64, 100, one),
        (
            "latents",
            with(deepseek().0, plain),
            1,
            2,
            3000,
            Routing::Balanced,
        ),
    ] {
        let config = Config::parse(config.to_string().as_bytes()).unwrap();
        let step = Step {
            batch,
            ..self::step(tokens, past)
        };
        let step = Step {
            values: Dtype::Bf16,
            cache: Dtype::Bf16,
            ..step
        };
        let graph = decoder::graph(name, &config, &Weights::absent(), step).unwrap();
        let options = legal::Options {
            products: Products::Bf16,
            sibling_rows: 64,
            chip: Some((*maia).clone()),
        };
        let graph = legal::legalise(&graph, &options).unwrap();
        let options = chain::Options {
            routing: Some(routing),
            ..chain::Options::default()
        };
        let program = chain::compile(&graph, &maia, &options).unwrap();
        let note = |key: &str| {
            let found = program.image.notes.iter().find(|(k, _)| k == key);
            found.map(|(_, value)| value.clone()).unwrap()
        };
        let bound: f64 = note("bound_time_s").parse().unwrap();
        let empty = machine(&program, &graph, &maia, false);
        let run = timing::run(empty, &TimedOptions::default()).unwrap();
        let seconds = |cycles: u64| cycles as f64 / maia.clock_hz as f64;
        let share = bound / seconds(run.cycles);
        println!("{name}: {:.1} % of its bound", 100.0 * share);
        assert!(share <= 1.0, "{name}: {share}");
        let marks = run.machine.tensor_bytes(chain::MARKS).unwrap();
        let marks: Vec<u64> = (marks.chunks_exact(8))
            .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
            .collect();
        for (stage, at) in program.stages.iter().zip(marks.windows(2)) {
            let early = ["linear", "grouped"];
            if !early.iter().any(|word| stage.op.starts_with(word)) {
                let share = stage.bound.time_s / seconds(at[1] - at[0]);
                assert!(share <= 1.0, "{name}, {}: {share}", stage.op);
            }
        }
    }
}

/// MXFP4 and MXFP8 experts, rows quantised as they are fetched. The table keeps roundings from changing the choice.
#[test]
fn experts_in_few_bits() {
    let plain = |tokens| Step {
        tokens,
        ..Step::default()
    };
    let balanced = |products| (products, Some(Routing::Balanced));
    for mxfp4 in [true, false] {
        let family = gpt_oss(mxfp4);
        let name = if mxfp4 { "gpt-oss-mxfp4" } else { "gpt-oss" };
        check(
            name,
            &family,
            plain(1),
            balanced(Products::Fp8),
            "maia-200",
            0.15,
        );
        check(
            name,
            &family,
            plain(4),
            balanced(Products::Bf16),
            "mini",
            0.1,
        );
    }
}

/// A table that does not suit the model is one error.
#[test]
fn wrong_tables_say_what_is_wrong() {
    let (config, tensors) = mixtral();
    let dir = model("mix-wrong", &config, &file(&tensors).0);
    let graph = read(&dir.0, step(1, 0)).unwrap().graph;
    for (line, word) in [
        (vec![1], "a.txt:7: 1 ids"),
        (vec![1, 5], "a.txt:7: expert 5"),
        (vec![1, 1], "a.txt:7: expert 1 twice"),
    ] {
        let table = Routing::Table {
            name: "a.txt".to_owned(),
            lines: vec![(7, line)],
        };
        let error = table.put(&graph).unwrap_err().to_string();
        assert!(error.starts_with(word), "{error}");
    }
}
