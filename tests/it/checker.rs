//! The checker: compiled programs are clean, and programs that were changed are told apart.

use crate::chain::{feed_forward, grown_cache};
use crate::legal;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tilewright::asm::assemble_text;
use tilewright::chip::Chip;
use tilewright::compiler::chain::{self, Program};
use tilewright::compiler::check::{self, Bindings, Options, Report, meaning};
use tilewright::compiler::graph::Graph;
use tilewright::compiler::graph::drawn::draw_weights;
use tilewright::compiler::import::hf::{Step, configured};
use tilewright::compiler::legal::{Options as Forms, Products, legalise};
use tilewright::isa::image::{Image, Section};
use tilewright::isa::{FieldKind, Inst, Reg};
use tilewright::machine::{LoadOptions, Machine, UntimedLimits, run_untimed};
use tilewright::num::Dtype;
use tilewright::num::random::splitmix64;
use tilewright::timing::{self, TimedOptions};

/// Control instructions that a changed program may run: many times those of the programs here.
const STEPS: u64 = 1 << 19;

/// Where a chain keeps its graph's values.
pub fn bindings(program: &Program) -> Bindings {
    let symbols = |list: &[chain::Binding]| list.iter().map(|b| b.symbol.clone()).collect();
    let constants = program.constants.iter();
    Bindings {
        inputs: symbols(&program.inputs),
        outputs: symbols(&program.outputs),
        constants: constants
            .map(|c| (c.symbol.clone(), c.bytes().unwrap().into()))
            .collect(),
        ..Bindings::default()
    }
}

/// Fails unless a compiled program computes its graph.
#[track_caller]
pub fn clean(graph: &Graph, chip: &Chip, program: &Program) {
    let options = Options::default();
    let report = check::check(graph, chip, &program.image, &bindings(program), &options).unwrap();
    assert!(report.findings.is_empty(), "{report}");
    assert!(report.elements > 0 && report.operations > 0);
}

/// The numbers of all outputs, or how a run fails.
type Outcome = Result<Vec<Vec<f32>>, String>;

/// Whether two runs end apart by more than the roundings of 16-bit numbers on the way, of which the checker says nothing.
fn apart(a: &Outcome, b: &Outcome) -> bool {
    let (Ok(a), Ok(b)) = (a, b) else {
        return a != b;
    };
    a.iter().zip(b).any(|(a, b)| {
        let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
        let far = |(x, y): (&f32, &f32)| (x - y).abs() > 0.02 * largest || x.is_nan() != y.is_nan();
        a.iter().zip(b).any(far)
    })
}

/// A graph, its program, and what the checker says of changed ones.
struct Case {
    graph: Graph,
    chip: Arc<Chip>,
    program: Program,
    bindings: Bindings,
}

impl Case {
    fn new(graph: Graph, chip: &str) -> Case {
        let chip = Arc::new(Chip::preset(chip).unwrap());
        let program = chain::compile(&graph, &chip, &chain::Options::default()).unwrap();
        Case {
            bindings: bindings(&program),
            graph,
            chip,
            program,
        }
    }

    fn check(&self, image: &Image, seed: u64) -> Report {
        let options = Options {
            seed,
            max_steps: STEPS,
            ..Options::default()
        };
        check::check(&self.graph, &self.chip, image, &self.bindings, &options).unwrap()
    }

    /// Kinds of findings of the program with a text in place of another, which stands there at least once.
    #[track_caller]
    fn changed(&self, from: &str, to: &str, times: usize) -> Vec<&'static str> {
        assert!(self.program.text.contains(from), "no `{from}`");
        let text = self.program.text.replacen(from, to, times);
        let none = |path: &str| Err(std::io::Error::other(path.to_owned()));
        let image = assemble_text("<changed>", &text, &none);
        let image = image.unwrap_or_else(|e| panic!("{}", e.render(false)));
        let findings = self.check(&image, 1).findings;
        findings.iter().map(|f| f.kind).collect()
    }

    /// The numbers of all outputs, or how the run fails, in some orders and timed.
    fn results(&self, image: &Arc<Image>, seed: u64) -> Vec<Outcome> {
        let options = LoadOptions::default();
        let machine = Machine::load(self.chip.clone(), image.clone(), &options);
        let mut machine = match machine {
            Ok(machine) => machine,
            Err(error) => return vec![Err(error.to_string())],
        };
        for (symbol, contents) in &self.bindings.constants {
            machine
                .set_tensor(symbol, &contents.read().unwrap())
                .unwrap();
        }
        let inputs = meaning::draw(&self.graph, seed);
        for (symbol, bytes) in self.bindings.inputs.iter().zip(&inputs) {
            machine.set_tensor_rows(symbol, bytes).unwrap();
        }
        let outputs = |m: &Machine| -> Vec<Vec<f32>> {
            let each = self.bindings.outputs.iter();
            each.map(|o| m.tensor_f32(o).unwrap()).collect()
        };
        let mut all = Vec::new();
        for order_seed in [0, 5, 9] {
            let limits = UntimedLimits {
                max_steps: 1 << 22,
                order_seed,
            };
            let mut machine = machine.clone();
            let run = run_untimed(&mut machine, &limits);
            all.push(run.map(|_| outputs(&machine)).map_err(|e| e.to_string()));
        }
        let options = TimedOptions {
            max_cycles: Some(4_000_000),
            ..TimedOptions::default()
        };
        let timed = timing::run(machine, &options);
        all.push(
            timed
                .map(|run| outputs(&run.machine))
                .map_err(|e| e.to_string()),
        );
        all
    }
}

/// One of the findings is of a kind.
#[track_caller]
fn has(kinds: Vec<&str>, kind: &str) {
    assert!(kinds.contains(&kind), "{kinds:?}");
}

#[test]
fn each_kind_of_mistake_is_found() {
    let case = Case::new(feed_forward(70, 96, 200), "mini");
    assert_eq!(case.check(&case.program.image, 3).findings, []);
    // The first stage: rows of x, 9 to a tile, to y0.
    let rows = "li c.far, addr(x0)\n";
    // An address off by one block of 256 bytes.
    has(case.changed(rows, "li c.far, addr(x0) + 256\n", 1), "wrong");
    // A row pitch that is too long by an element.
    let pitch = "li c.t, 192\n    mul c.t, c.t, c.first\n    li c.far, addr(x0)";
    let wrong = "li c.t, 194\n    mul c.t, c.t, c.first\n    li c.far, addr(x0)";
    has(case.changed(pitch, wrong, 1), "wrong");
    // A wait that is missing.
    has(case.changed("wait 20(c.slot), 1\n", "", 1), "race");
    // A store that goes where another tile's rows belong.
    let store = "li c.far, addr(y0)\n";
    has(
        case.changed(store, "li c.far, addr(y0) + 1728\n", 1),
        "wrong",
    );
    // An input that is read beyond its end: row 70 of 70.
    let count = "sub c.count, c.count, c.first\n";
    let more = "sub c.count, c.count, c.first\n    addi c.count, c.count, 1\n";
    has(case.changed(count, more, 1), "outside");
    // A part of an output that nothing writes: the last stage ends early.
    has(
        case.changed("li c.count, 6720", "li c.count, 6300", 1),
        "wrong",
    );
    // Operands that changed places.
    let (product, swapped) = ("mk.kn t0, t1, t2,", "mk.kn t0, t2, t1,");
    assert!(!case.changed(product, swapped, 1).is_empty());
    // A buffer whose slot is filled again before it was read: rows enough that slots go round.
    let case = Case::new(feed_forward(400, 96, 64), "mini");
    assert_eq!(case.check(&case.program.image, 3).findings, []);
    let freed = "signal 20(c.slot), 1\n    dma.bf16.f32 0";
    let load = format!("wait 16(c.slot), 1\n    {freed}");
    has(case.changed(&load, freed, 1), "race");
}

/// Two values that live at the same time, at one place.
#[test]
fn values_that_share_memory_are_found() {
    let case = Case::new(feed_forward(70, 96, 200), "mini");
    let mut places: BTreeMap<u64, usize> = BTreeMap::new();
    for t in &case.program.image.tensors {
        if t.space == tilewright::isa::image::Space::Hbm {
            *places.entry(t.offset).or_default() += 1;
        }
    }
    let marks = case.program.image.tensor("marks").unwrap().offset;
    let inner: Vec<u64> = places.into_keys().filter(|at| *at > marks).collect();
    assert!(inner.len() >= 2, "{inner:?}");
    // x is wanted again by the last stage: the first values between must not lie on it.
    for at in &inner[..1] {
        let (from, to) = (format!("at {at:#x}\n"), "at 0x0\n");
        let kinds = case.changed(&from, to, 100);
        assert!(kinds.contains(&"wrong"), "{at:#x}: {kinds:?}");
    }
}

/// A change of one instruction.
fn mutant(image: &Image, seed: u64) -> Option<(Image, String)> {
    let draw = |n: u64, of: usize| (splitmix64(seed, n) % of.max(1) as u64) as usize;
    let mut image = image.clone();
    let kernels = image.kernel_code.words.len();
    // Kernels are long and their instructions alike: one change in four.
    let in_kernel = draw(0, 4) == 0 && kernels > 0;
    let section: &mut Section = match in_kernel {
        true => &mut image.kernel_code,
        false => &mut image.tile,
    };
    let at = draw(1, section.words.len());
    let (word, inst) = (section.words[at], section.insts[at]);
    let sync = matches!(
        inst,
        Inst::Wait { .. }
            | Inst::Signal { .. }
            | Inst::SignalUnit { .. }
            | Inst::SignalTiles { .. }
            | Inst::SignalDest { .. }
            | Inst::SemWait { .. }
            | Inst::SemPost { .. }
    );
    let nothing = Inst::Addi {
        rd: Reg(0),
        rs1: Reg(0),
        imm: 0,
    };
    let fields = inst.info().fields;
    let field = fields.get(draw(2, fields.len()))?;
    let new = match field.kind {
        _ if sync && draw(3, 2) == 0 => nothing.encode(),
        FieldKind::Imm { .. } => {
            let by = [256, -256, 1, -1, 4, 64][draw(4, 6)];
            let value = field.value(word) + by;
            let (low, high) = field.range();
            if !(low..=high).contains(&value) {
                return None;
            }
            let mask = (u64::MAX >> (64 - field.bits)) << field.lo;
            word & !mask | (value as u64) << field.lo & mask
        }
        FieldKind::Reg | FieldKind::SReg | FieldKind::VReg => {
            // Another register that the program uses, as a mix-up has it.
            let other = 1 + draw(5, 15) as u64;
            let mask = (u64::MAX >> (64 - field.bits)) << field.lo;
            word & !mask | other << field.lo & mask
        }
        _ => return None,
    };
    if new == word {
        return None;
    }
    let changed = Inst::decode(new).ok()?;
    section.words[at] = new;
    section.insts[at] = changed;
    Some((image, format!("word {at}: `{inst}` became `{changed}`")))
}

/// Random changes of one instruction each: none that changes a result, or how the run ends, goes unnoticed. Changes that are reported, those
/// that do nothing, those that round otherwise, and all.
fn mutations(case: &Case, count: u64, seed: u64) -> [usize; 4] {
    let image = Arc::new(case.program.image.clone());
    // Quiet inputs and loud ones.
    let seeds = [1, 2];
    let expected: Vec<_> = seeds.iter().map(|s| case.results(&image, *s)).collect();
    let mut counts = [0; 4];
    let mut missed = Vec::new();
    for n in 0..count {
        let Some((mutant, what)) = mutant(&image, splitmix64(seed, n)) else {
            continue;
        };
        counts[3] += 1;
        let is_found = |s: &u64| !case.check(&mutant, *s).findings.is_empty();
        if seeds.iter().any(is_found) {
            counts[0] += 1;
            continue;
        }
        let mutant = Arc::new(mutant);
        let results = seeds.iter().map(|s| case.results(&mutant, *s));
        let pairs = || results.clone().zip(&expected);
        let far = |(got, want): (Vec<Outcome>, &Vec<Outcome>)| {
            got.len() != want.len() || got.iter().zip(want).any(|(a, b)| apart(b, a))
        };
        if pairs().any(far) {
            missed.push(what);
        } else if pairs().any(|(got, want)| got != *want) {
            counts[2] += 1;
        } else {
            counts[1] += 1;
        }
    }
    assert!(missed.is_empty(), "{counts:?}, missed: {missed:#?}");
    counts
}

#[test]
fn no_change_that_matters_goes_unnoticed() {
    let cases = [
        (Case::new(feed_forward(70, 96, 200), "mini"), 120),
        (Case::new(grown_cache(1, 5, 40), "mini"), 120),
    ];
    for (seed, (case, count)) in cases.iter().enumerate() {
        let [reported, harmless, rounding, all] = mutations(case, *count, seed as u64);
        println!(
            "{all} changes: {reported} reported, {harmless} harmless, {rounding} round otherwise"
        );
        assert!(reported * 2 > all, "{reported} of {all}");
    }
}

/// A step of a decoder with weights drawn at random, checked for quiet and for loud inputs.
fn decoder(name: &str, config: &Json, step: Step, products: Products) {
    let chip = Chip::preset("maia-200").unwrap();
    let bytes = serde_json::to_vec(config).unwrap();
    let graph = configured(name, &bytes, step).unwrap().graph;
    let forms = Forms {
        products,
        sibling_rows: 64,
        chip: Some(chip.clone()),
    };
    let mut graph = legalise(&graph, &forms).unwrap();
    draw_weights(&mut graph, 11);
    let program = chain::compile(&graph, &chip, &chain::Options::default());
    let program = program.unwrap_or_else(|e| panic!("{name}: {e}"));
    for seed in [1, 2] {
        let options = Options {
            seed,
            ..Options::default()
        };
        let report = check::check(&graph, &chip, &program.image, &bindings(&program), &options);
        let report = report.unwrap();
        assert!(
            report.findings.is_empty(),
            "{name}, seed {seed}: {report}{graph}"
        );
    }
}

/// What all decoders here have: a layer that fills the tiles of the chip, and a vocabulary that does not take the time.
fn layer(family: &str, rest: &Json) -> Json {
    let mut config = json!({
        "model_type": family, "num_hidden_layers": 1, "hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 640, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
    });
    let (all, rest) = (config.as_object_mut().unwrap(), rest.as_object().unwrap());
    all.extend(rest.clone());
    config
}

fn one_token(batch: u64, past: u64, cache: Dtype) -> Step {
    Step {
        batch,
        tokens: 1,
        past,
        cache,
        absorb: true,
        ..Step::default()
    }
}

#[test]
fn layers_of_decoders_are_clean() {
    let step = one_token(2, 100, Dtype::E4m3);
    let experts = json!({ "head_dim": 64, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
        "norm_topk_prob": true });
    decoder("moe", &layer("qwen3_moe", &experts), step, Products::Fp8);
}

/// Experts of many rows beside stages of few, whose activations lie in every tile's SRAM: rows of experts do not.
#[test]
fn many_rows_of_experts_beside_a_large_vocabulary_are_clean() {
    let experts = json!({ "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "head_dim": 64, "vocab_size": 4096,
        "num_experts": 16, "num_experts_per_tok": 8, "moe_intermediate_size": 32, "norm_topk_prob": true });
    let step = Step {
        tokens: 80,
        ..one_token(1, 0, Dtype::Bf16)
    };
    decoder("many", &layer("qwen3_moe", &experts), step, Products::Fp8);
}

#[test]
fn layers_with_latents_are_clean() {
    let latents = json!({ "num_key_value_heads": 8, "q_lora_rank": 128, "kv_lora_rank": 128, "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 256, "n_shared_experts": 1, "first_k_dense_replace": 0, "moe_layer_freq": 1, "n_group": 4,
        "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid" });
    let step = one_token(2, 70, Dtype::Bf16);
    decoder("mla", &layer("deepseek_v3", &latents), step, Products::Bf16);
}

#[test]
fn layers_with_windows_and_sinks_are_clean() {
    let sinks = json!({ "num_hidden_layers": 2, "head_dim": 64, "attention_bias": true, "sliding_window": 32,
        "num_local_experts": 8, "num_experts_per_tok": 2, "swiglu_limit": 7.0,
        "quantization_config": { "quant_method": "mxfp4" } });
    let step = one_token(1, 90, Dtype::Bf16);
    decoder("gpt-oss", &layer("gpt_oss", &sinks), step, Products::Bf16);
}

/// Each layer of a deep model about doubles the difference that constants of FP32 make: what is told is told of every one all the same.
#[test]
fn deep_models_are_clean() {
    let deep = json!({ "num_hidden_layers": 24, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
        "vocab_size": 64 });
    let step = one_token(1, 40, Dtype::E4m3);
    decoder("deep", &layer("llama", &deep), step, Products::Fp8);
}

/// Exit code, standard output and standard error of a command line.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tilewright"));
    let command = command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let texts = (text(&output.stdout), text(&output.stderr));
    (output.status.code(), texts.0, texts.1)
}

/// Every form of attention that `bench` compiles has its slow reference.
#[test]
fn every_form_of_attention_is_held_against_its_reference() {
    let plain = "bench attention --chip mini --batch 2 --heads 4 --kv-heads 2 --head-dim 64 --kv-len 200 --json --check";
    for form in [
        "--q-len 1 --dtype bf16 --window 50",
        "--q-len 1 --dtype bf16 --sinks",
        "--q-len 1 --dtype bf16 --page 16",
        "--q-len 1 --dtype bf16 --v-in-k --value-dim 32",
        "--q-len 1 --dtype fp8 --value-dim 32",
        "--q-len 64 --dtype bf16 --causal --window 50 --sinks",
    ] {
        let args: Vec<&str> = plain.split(' ').chain(form.split(' ')).collect();
        let (code, out, err) = run(&args);
        assert_eq!(code, Some(0), "{form}: {out}{err}");
        let value: Json = serde_json::from_str(&out).unwrap();
        assert_eq!(value["check"]["passed"], true, "{form}: {out}");
    }
}

/// The command line says what was proved, and that a program alone has no graph.
#[test]
fn the_flag_of_the_command_line() {
    let model = "tests/onnx/test_matmul_4d/model.onnx";
    let (code, out, err) = run(&["compile", model, "--explain", "--check", "--json"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["checked"]["elements"], 18, "{out}");
    let (code, out, err) = run(&["run", "programs/kernels/vector_add.s", "--check"]);
    assert_eq!(code, Some(2), "{out}{err}");
    assert!(err.contains("--check"), "{err}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Graphs of every kind of operation and mix of types, as far as they become programs.
    #[test]
    fn programs_of_random_graphs_are_clean(
        extents in prop::collection::vec(1u64..9, 1..4),
        choices in legal::choices(),
        products in prop::sample::select(vec![Products::Faithful, Products::Bf16, Products::Fp8]),
        seed in 1u64..1000,
    ) {
        let (graph, _) = legal::random(&extents, &choices, &legal::ALL);
        let chip = Chip::preset("mini").unwrap();
        let forms = Forms { products, sibling_rows: 8, chip: Some(chip.clone()) };
        let graph = legalise(&graph, &forms).unwrap();
        // What has no program has an error, and is not the checker's.
        if let Ok(program) = chain::compile(&graph, &chip, &chain::Options::default()) {
            let options = Options { seed, ..Options::default() };
            let report = check::check(&graph, &chip, &program.image, &bindings(&program), &options);
            let report = report.unwrap();
            prop_assert!(report.findings.is_empty(), "{}\n{}", report, graph);
        }
    }
}
