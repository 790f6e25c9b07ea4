//! `bench model`: one step of a decoder, compiled, run and explained.
//!
//! Models: a decode step (one new token of each sequence, which sees `--context` tokens with itself) and, with `--prefill N`, the
//! step that reads the first N tokens of each sequence. Each is a program of its own with a run of its own. Leaves out: what happens
//! between steps, sampling but for the likeliest token, several chips. Invariant: figures are of the layers that ran; nothing is
//! scaled up to those that did not.

use super::progress::Progress;
use super::simulate::{self, MEMORY_LIMIT, Options, Run, machine_error, memory_limit};
use super::stages::{self, Stages};
use super::{CliError, Context, checker, graph, inputs, model, outcome, routing, work};
use crate::chip::Chip;
use crate::compiler::chain::{self, routing::Routing};
use crate::compiler::graph::{Graph, Op, Value, ValueId};
use crate::compiler::import::hf::{self, Step};
use crate::compiler::import::{ImportError, Imported};
use crate::compiler::legal::{Narrow, Products};
use crate::compiler::op::MAX_EXTENT;
use crate::isa::image::Class;
use crate::machine::Machine;
use crate::num::{Dtype, random};
use crate::report::Metrics;
use crate::report::table::{duration, joules};
use serde_json::{Map, Value as Json, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One step of a decoder: tokens a second, and what every operation took
#[derive(clap::Args)]
pub struct Args {
    /// A name that stands for a model's dimensions (--help of `bench model` lists them), or a Hugging Face directory
    #[arg(value_name = "NAME|DIR", long_help = names())]
    model: String,
    /// Sequences
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1, value_parser = model::count)]
    batch: u64,
    /// Tokens of each sequence that the new one sees, with itself: 1 to 2^32, or as many positions as the model tells apart
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 2048, value_parser = model::count)]
    context: u64,
    /// Also run the step that reads the first N tokens of each sequence: ttft_s
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
    prefill: Option<u64>,
    /// Products with weights: bf16, fp8 (E4M3 with a scale for each row and column), mxfp8, mxfp6, mxfp4, nvfp4 (blocks with a scale each, rows
    /// quantised on the chip), w4a8 (MXFP4 weights, MXFP8 rows) or w4a16 (MXFP4 weights, BF16 rows); all else is BF16
    #[arg(long, default_value = "fp8")]
    dtype: String,
    /// Type of cached keys and values, and of attention: bf16 or fp8 (E4M3) [default: bf16 with bf16 and w4a16, else fp8]
    #[arg(long, value_name = "DTYPE")]
    cache: Option<String>,
    /// Only N layers, for models that are larger than the chip's memory; figures are of these
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
    layers: Option<u64>,
    /// The first of the layers, for models whose first differ from the others
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_layer: u64,
    /// Experts that tokens take in place of those that the router chooses: balanced, zipf:S (S from 0, all alike, to 16), or a file
    /// [default: the router's; balanced with --no-data]
    ///
    /// A file of up to 64 MiB has a line for each token: its experts, numbers from 0 on, with blanks or commas between them, as many as a
    /// token of the model takes and none twice. After the last line the first is used again; `#` begins a comment. Lower bounds count the
    /// experts that are named; of a router's choice as many as it gives to one token.
    #[arg(long, value_name = "balanced|zipf:S|FILE")]
    routing: Option<String>,
}

/// What a name may be.
fn names() -> String {
    format!(
        "A Hugging Face directory, or a name that stands for a model's dimensions without its weights: {}",
        hf::names().join(", ")
    )
}

/// The flags that all of `bench` have.
pub struct Common<'a> {
    /// Prove the program against its graph first.
    pub check: bool,
    pub no_data: bool,
    pub sanitize: bool,
    pub seed: u64,
    pub trace: Option<&'a Path>,
    pub output: Option<&'a PathBuf>,
    pub max_cycles: u64,
}

/// A model and how much of it is wanted.
struct Model<'a> {
    args: &'a Args,
    /// Layers that there are.
    all: u64,
    source: graph::Source<'a>,
    products: Products,
    cache: Dtype,
    routing: Option<Routing>,
}

/// One of the two types that a flag takes.
fn choice<T>(flag: &str, value: &str, bf16: T, fp8: T) -> Result<T, CliError> {
    match value {
        "bf16" => Ok(bf16),
        "fp8" => Ok(fp8),
        other => Err(CliError::usage(format!(
            "--{flag}: `{other}` is not one of bf16, fp8"
        ))),
    }
}

impl<'a> Model<'a> {
    fn open(args: &'a Args, common: &Common<'_>) -> Result<Model<'a>, CliError> {
        let routing = match args.routing.as_deref() {
            Some(text) => Some(routing::parse(text, common.seed)?),
            // Without data a router chooses nothing.
            None => common.no_data.then_some(Routing::Balanced),
        };
        let products = graph::products(Some(&args.dtype))?;
        // Rows of 8 bits or less go with a cache of 8 bits.
        let wide = matches!(
            products,
            Products::Faithful | Products::Bf16 | Products::Blocks(Narrow::W4a16)
        );
        let own = if wide { "bf16" } else { "fp8" };
        let cache = args.cache.as_deref().unwrap_or(own);
        let cache = choice("cache", cache, Dtype::Bf16, Dtype::E4m3)?;
        for (flag, value) in [
            ("batch", Some(args.batch)),
            ("context", Some(args.context)),
            ("prefill", args.prefill),
            ("layers", args.layers),
        ] {
            if value == Some(0) {
                return Err(CliError::usage(format!(
                    "--{flag} is 0, it must be at least 1"
                )));
            }
            if let Some(value) = value.filter(|value| *value > MAX_EXTENT) {
                return Err(CliError::usage(format!(
                    "--{flag} is {value}, it must be 1 to {MAX_EXTENT}"
                )));
            }
        }
        let dir = Path::new(&args.model);
        let (source, config) = match dir.is_dir() {
            true => {
                let bytes = hf::config::bytes(&dir.join("config.json"));
                (graph::Source::File(dir), bytes)
            }
            false => {
                let config = hf::names::config(&args.model).map_err(|e| match e {
                    ImportError::Format(text) => {
                        ImportError::Format(format!("{text}, and no directory"))
                    }
                    other => other,
                });
                (graph::Source::Flags, config.map(|c| c.as_bytes().to_vec()))
            }
        };
        let config = config.map_err(|e| source.import(&e))?;
        let config: Json = serde_json::from_slice(&config).unwrap_or_default();
        let all = config["num_hidden_layers"].as_u64().unwrap_or(0);
        let last = args.first_layer.saturating_add(args.layers.unwrap_or(1));
        if all > 0 && last > all {
            let (first, all) = (args.first_layer, format!("the model has {all} layers"));
            return Err(CliError::usage(match (args.layers, first) {
                (Some(layers), 0) => format!("--layers {layers}: {all}"),
                (Some(layers), first) => {
                    format!("--layers {layers} from --first-layer {first}: {all}")
                }
                (None, first) => format!("--first-layer {first}: {all}, the first is 0"),
            }));
        }
        Ok(Model {
            args,
            all,
            source,
            products,
            cache,
            routing,
        })
    }

    /// Layers that run.
    fn layers(&self) -> u64 {
        let rest = self.all.saturating_sub(self.args.first_layer);
        self.args.layers.unwrap_or(rest)
    }

    /// A step of so many new tokens after so many others.
    fn step(&self, tokens: u64, past: u64) -> Step {
        Step {
            batch: self.args.batch,
            tokens,
            past,
            cache: self.cache,
            first_layer: self.args.first_layer,
            layers: self.args.layers,
            absorb: tokens == 1,
            ..Step::default()
        }
    }

    fn import(&self, step: Step) -> Result<Imported, CliError> {
        let imported = match self.source {
            graph::Source::File(dir) => hf::read(dir, step),
            graph::Source::Flags => hf::named(&self.args.model, step),
        };
        imported.map_err(|e| match e {
            // Importers know a step by `--shape`; this command has flags for it.
            ImportError::Shape { name, message } => {
                let flag = match (name.as_str(), step.past) {
                    ("batch", _) => "--batch",
                    ("layers", _) => "--layers",
                    ("first_layer", _) => "--first-layer",
                    ("tokens", 0) if self.args.prefill.is_some() => "--prefill",
                    ("tokens" | "past", _) => "--context",
                    _ => return CliError::usage(format!("{name}: {message}")),
                };
                CliError::flag(flag, message)
            }
            ImportError::Graph(error) => CliError::usage(format!(
                "{}: {error}, with --batch {}, --context {}{}",
                self.args.model,
                self.args.batch,
                self.args.context,
                self.args
                    .prefill
                    .map_or_else(String::new, |n| format!(" and --prefill {n}")),
            )),
            e => self.source.import(&e),
        })
    }

    /// The step's graph, if its weights and what is given fit the chip.
    fn fitting(&self, step: Step, chip: &Chip, context: &Context) -> Result<Imported, CliError> {
        let _progress = Progress::start("reading", context);
        let imported = self.import(step)?;
        let (needed, limit) = (self.bytes(&imported.graph), chip.hbm_bytes());
        if needed <= limit {
            return Ok(imported);
        }
        let of = |layers: u64| -> Result<u64, CliError> {
            let layers = Some(layers);
            let cut = self.import(Step { layers, ..step })?;
            Ok(self.bytes(&cut.graph))
        };
        // Layers differ in size, so their number is searched for: `fit` fit, `more` do not.
        let (mut fit, mut more) = (0, self.layers());
        while more - fit > 1 {
            let middle = fit + (more - fit) / 2;
            match of(middle)? <= limit {
                true => fit = middle,
                false => more = middle,
            }
        }
        // What a program has beside that shows when it is compiled; by little, so one or two layers less do.
        let compiles = |layers: &u64| {
            let cut = Step {
                layers: Some(*layers),
                ..step
            };
            let imported = self.import(cut)?;
            let chained = chain::Options::default();
            graph::compiled_by(
                &imported,
                chip,
                self.products,
                self.source,
                (&chained, None),
                context,
            )
        };
        let sure = (1..=fit).rev().take(3).find(|n| compiles(n).is_ok());
        let help = match (sure, fit) {
            (_, 0) => "not even one layer fits".to_owned(),
            (Some(n), _) => format!("--layers {n} fits"),
            (None, n) => format!("fewer than --layers {n} may fit"),
        };
        Err(CliError::usage(format!(
            "{}: {} layers with their cache take at least {needed} bytes of HBM, {} more than the {limit} of {}; {help}",
            self.args.model,
            self.layers(),
            needed - limit,
            chip.name
        )))
    }

    /// Bytes in HBM that what is given for the step takes at least, weights at the width of products.
    fn bytes(&self, graph: &Graph) -> u64 {
        // Tables are no operands of products.
        let mut table = vec![false; graph.values.len()];
        let gathers = graph.nodes.iter().filter(|n| matches!(n.op, Op::Gather(_)));
        gathers.for_each(|n| table[n.inputs[0].0 as usize] = true);
        let bits = self.products.weight_bits();
        let narrow = |value: &Value| value.elements().saturating_mul(bits) / 8;
        let weights = graph
            .constants()
            .map(|(id, value, _)| match table[id.0 as usize] {
                true => value.bytes(),
                false => value.bytes().min(narrow(value)),
            });
        let inputs = graph.list(&graph.inputs).map(Value::bytes);
        weights.chain(inputs).fold(0, u64::saturating_add)
    }

    /// Compiles and runs a step.
    fn run(
        &self,
        step: Step,
        common: &Common<'_>,
        chip: &Arc<Chip>,
        context: &Context,
    ) -> Result<Ran, CliError> {
        let imported = self.fitting(step, chip, context)?;
        let mixture = (imported.graph.nodes.iter()).any(|n| matches!(n.op, Op::Grouped(_)));
        if self.args.routing.is_some() && !mixture {
            let model = &self.args.model;
            let message = format!("--routing: {model} has no experts in these layers");
            return Err(CliError::usage(message));
        }
        let routing = self.routing.clone().filter(|_| mixture);
        let chained = chain::Options {
            routing: routing.clone(),
            ..chain::Options::default()
        };
        let (products, source) = (self.products, self.source);
        let named = matches!(source, graph::Source::Flags);
        let drawn = (named && common.check).then_some(common.seed);
        let how = (&chained, drawn);
        let whole = graph::compiled_by(&imported, chip, products, source, how, context)?;
        if let Some(path) = common.output {
            let object = crate::asm::object::write(&whole.program.image);
            std::fs::write(path, object).map_err(|e| CliError::io("write", path, &e))?;
            context.note(&format!("wrote {}", path.display()));
        }
        let checked = match common.check {
            true => {
                let (graph, program) = (&whole.graph, &whole.program);
                Some(checker::check(graph, program, chip, common.seed, context)?)
            }
            false => None,
        };
        let program = whole.program;
        let loading = Progress::start("loading", context);
        let image = Arc::new(program.image);
        let mut machine = simulate::load(chip, &image, !common.no_data, &self.args.model)?;
        drop(loading);
        graph::set_constants(&mut machine, &program.constants, context)?;
        let drawing = Progress::start("drawing inputs", context);
        fill(&mut machine, &imported.graph, &program.inputs, common.seed)?;
        drop(drawing);
        let findings = match common.sanitize {
            true => {
                let constants = program.constants.iter().map(|c| c.symbol.as_str());
                let inputs = program.inputs.iter().map(|b| b.symbol.as_str());
                let given: Vec<&str> = constants.chain(inputs).collect();
                Some(simulate::sanitize(&machine, &given, None, context)?)
            }
            false => None,
        };
        let options = Options {
            untimed: false,
            trace: common.trace.is_some(),
            max_cycles: common.max_cycles,
        };
        let mut run = simulate::run(machine, &options, context)?;
        if let Some(dir) = common.trace {
            simulate::write_trace(dir, &mut run, &self.args.model)?;
        }
        let _progress = Progress::start("measuring", context);
        let times = stages::times(&run.machine, &program.stages)?;
        let mut metrics = Metrics::new(chip, work::of_image(&image, chip));
        metrics.measured = run.measured.take();
        metrics.program_bytes = image.program_bytes();
        metrics.wall_s = run.wall_s;
        metrics.compile_s = Some(whole.compile_s);
        Ok(Ran {
            ops: Stages::new(&program.stages, &times, context.verbosity < 2),
            stages: Stages::new(&program.stages, &times, false),
            metrics,
            run,
            findings,
            routing,
            checked,
        })
    }
}

/// A step that ran.
struct Ran {
    metrics: Metrics,
    ops: Stages,
    stages: Stages,
    run: Run,
    findings: Option<crate::machine::Findings>,
    /// Which experts tokens took, if the model has some and not the router chose.
    routing: Option<Routing>,
    /// What `--check` proved of its program.
    checked: Option<Json>,
}

impl Ran {
    fn time_s(&self) -> Option<f64> {
        self.metrics.measured.as_ref().map(|m| m.time_s)
    }
}

/// Gives every input its contents: ids of tokens from all that there are, all else N(0,1), input i from stream splitmix64(seed, i).
fn fill(
    machine: &mut Machine,
    graph: &Graph,
    bindings: &[crate::compiler::chain::Binding],
    seed: u64,
) -> Result<(), CliError> {
    let kept = |machine: &Machine, symbol: &str| {
        let tensor = machine.image.tensor(symbol);
        tensor.is_some_and(|t| machine.data || t.class == Class::Control)
    };
    let sizes = graph.list(&graph.inputs).map(Value::bytes);
    let total = sizes.fold(0u64, u64::saturating_add);
    if machine.data && total > MEMORY_LIMIT {
        return Err(memory_limit(&format!(
            "the inputs take {total} bytes of host memory, at most {MEMORY_LIMIT}; --no-data times them without storing them"
        )));
    }
    for (i, (id, binding)) in graph.inputs.iter().zip(bindings).enumerate() {
        if !kept(machine, &binding.symbol) {
            continue;
        }
        let value = &graph[*id];
        let stream = random::splitmix64(seed, i as u64);
        let bytes = match value.dtype {
            Dtype::I32 => {
                let count = ids(graph, *id);
                let id = |at| (random::splitmix64(stream, at) % count) as i32;
                (0..value.elements())
                    .flat_map(|at| id(at).to_le_bytes())
                    .collect()
            }
            dtype => inputs::rounded(dtype, value.elements(), stream),
        };
        let set = machine.set_tensor_rows(&binding.symbol, &bytes);
        set.map_err(|e| machine_error(&binding.symbol, &e))?;
    }
    Ok(())
}

/// How many indices are valid where this input is one: the least of the tables that it looks up in.
fn ids(graph: &Graph, input: ValueId) -> u64 {
    let tables = graph.nodes.iter().filter_map(|node| match &node.op {
        Op::Gather(gather) if node.inputs[1] == input => {
            Some(graph[node.inputs[0]].shape[gather.axis])
        }
        _ => None,
    });
    tables.min().unwrap_or(1)
}

pub fn run(args: &Args, common: &Common<'_>, context: &Context) -> Result<(), CliError> {
    let chip = Arc::new(context.chip()?);
    // Of a name, --check proves the program with random weights; what is timed has none either way.
    let named = !Path::new(&args.model).is_dir();
    let common = &Common {
        no_data: common.no_data || named && common.check,
        ..*common
    };
    let model = Model::open(args, common)?;
    if matches!(model.source, graph::Source::Flags) && !common.no_data {
        return Err(CliError::usage(format!(
            "{}: a name has no weights; --no-data times the model without them, --check proves its program with random ones too",
            args.model
        )));
    }
    let decode = model.step(1, args.context - 1);
    let prefill = args.prefill.map(|tokens| model.step(tokens, 0));
    // What is traced and written is the decode step.
    let quiet = Common {
        trace: None,
        output: None,
        ..*common
    };
    let first = match prefill {
        Some(step) => Some(model.run(step, &quiet, &chip, context)?),
        None => None,
    };
    let ran = model.run(decode, common, &chip, context)?;
    let tpot_s = ran.time_s().filter(|t| *t > 0.0);
    let ttft_s = first.as_ref().and_then(Ran::time_s);
    let tokens_per_s = tpot_s.map(|t| args.batch as f64 / t);
    let energy = ran.metrics.energy().map(|e| e.total()).filter(|e| *e > 0.0);
    let tokens_per_joule = energy.map(|e| args.batch as f64 / e);

    let mut extra = Map::new();
    let mut add = |key: &str, value: Json| extra.insert(key.to_owned(), value);
    add("model", json!(args.model));
    add("batch", json!(args.batch));
    add("context", json!(args.context));
    add("dtype", json!(args.dtype));
    add(
        "cache",
        json!(if model.cache == Dtype::E4m3 {
            "fp8"
        } else {
            "bf16"
        }),
    );
    add("layers", json!(model.layers()));
    add("layers_of_model", json!(model.all));
    add("tokens_per_s", json!(tokens_per_s));
    add("ttft_s", json!(ttft_s));
    add("tpot_s", json!(tpot_s));
    add("tokens_per_joule", json!(tokens_per_joule));
    let drawn = matches!(ran.routing, Some(Routing::Zipf { .. }));
    let seeded = drawn || !common.no_data;
    add("seed", json!(seeded.then_some(common.seed)));
    add(
        "routing",
        json!(ran.routing.as_ref().map(Routing::to_string)),
    );
    add("events", json!(ran.run.events));
    add("checked", json!(ran.checked));
    add("ops", ran.ops.json());
    add("stages", ran.stages.json());
    if let Some(first) = &first {
        let mut all = first.metrics.json();
        all["tokens"] = json!(args.prefill);
        all["ops"] = first.ops.json();
        all["checked"] = json!(first.checked);
        all["stages"] = first.stages.json();
        add("prefill", all);
    }
    let mut text = String::new();
    if let (Some(rate), Some(tpot)) = (tokens_per_s, tpot_s) {
        text += &format!("\n  {rate:.1} tokens/s, {} a token", duration(tpot));
        if let Some(per_joule) = tokens_per_joule {
            text += &format!(
                ", {per_joule:.2} tokens/J ({} a token)",
                joules(1.0 / per_joule)
            );
        }
        text += "\n";
    }
    text += &format!("\n{}", ran.ops.text());
    if let (Some(first), Some(ttft)) = (&first, ttft_s) {
        let tokens = args.prefill.unwrap_or_default();
        text += &format!(
            "\n  first token after {} (prefill of {tokens} tokens of each sequence)\n\n{}",
            duration(ttft),
            first.ops.text()
        );
    }
    let layers = match model.layers() == model.all {
        true => format!("{} layers", model.all),
        false => format!("{} of {} layers", model.layers(), model.all),
    };
    let data = if common.no_data { ", without data" } else { "" };
    let routing = match &ran.routing {
        None => String::new(),
        Some(routing) if drawn => format!(", experts by {routing} of seed {}", common.seed),
        Some(routing) => format!(", experts by {routing}"),
    };
    let title = format!(
        "{}, {layers}, batch {}, context {}, {} on {}{data}{routing}",
        args.model, args.batch, args.context, args.dtype, chip.name
    );
    let shown = outcome::Extra { json: extra, text };
    outcome::show(&title, &ran.metrics, shown, ran.findings.as_ref(), context)
}
