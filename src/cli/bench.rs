//! `bench`: an operation compiled, filled with random data, run and explained.

use super::progress::Progress;
use super::simulate::{self, DEFAULT_MAX_CYCLES, Options};
use super::{CliError, Context, check, decoder, inputs, model, outcome, stream, table, work};
use crate::compiler::rowwise::kinds::Kind;
use crate::compiler::{Attention, Form, Matmul, MatmulType, Op, OpError, parse_attention_dtype};
use crate::num::Dtype;
use crate::report::Metrics;
use clap::Subcommand;
use clap::builder::{PossibleValue, PossibleValuesParser};
use serde_json::{Map, json};
use std::path::PathBuf;
use std::sync::Arc;

/// Compile an operation, run it and say what bounds it
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    op: OpArgs,
}

#[derive(Subcommand)]
enum OpArgs {
    /// C[m,n] = A[m,k] B[k,n]
    Matmul {
        /// Rows of A and C
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        m: u64,
        /// Columns of B and C
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        n: u64,
        /// Columns of A and rows of B
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        k: u64,
        #[command(flatten)]
        operands: Operands,
        #[command(flatten)]
        common: Common,
    },
    /// O = softmax(Q K^T / sqrt(head-dim)) V
    Attention {
        /// Sequences
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        batch: u64,
        /// Query heads
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        heads: u64,
        /// Heads of K and V; divides --heads
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        kv_heads: u64,
        /// Elements of a head: a multiple of 32, up to 256 unless it decodes
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        head_dim: u64,
        /// Queries per sequence; 1 is decoding
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        q_len: u64,
        /// Keys per sequence
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        kv_len: u64,
        /// Query i sees keys 0 to kv-len - q-len + i; a query that sees none gives zeros
        #[arg(long)]
        causal: bool,
        #[command(flatten)]
        form: FormArgs,
        #[command(flatten)]
        operands: Operands,
        #[command(flatten)]
        common: Common,
    },
    #[command(after_long_help = stream::EXAMPLES)]
    Stream {
        #[command(flatten)]
        stream: stream::Args,
        #[command(flatten)]
        common: Common,
    },
    #[command(after_long_help = table::EXAMPLES)]
    Table(table::Args),
    Model {
        #[command(flatten)]
        model: decoder::Args,
        #[command(flatten)]
        common: Common,
    },
    /// A vector operation on every row of a matrix
    Rowwise {
        /// What is computed
        #[arg(long, value_parser = kinds())]
        kind: String,
        /// Rows
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        rows: u64,
        /// Columns
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
        cols: u64,
        /// Type of the inputs: f32, bf16, f16 or fp8 (E4M3); the output has the same, of fp8 BF16
        #[arg(long)]
        dtype: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(clap::Args)]
struct Operands {
    /// Operand type; the output is BF16. bf16, fp8 (E4M3); matmul also: fp8-e5m2, mxfp8 (E4M3), mxfp8-e5m2, mxfp6 (E2M3),
    /// mxfp6-e3m2, mxfp4, nvfp4, fp8xmxfp4 (A in E4M3 without scales, B in MXFP4), mxfp8xmxfp4
    #[arg(long)]
    dtype: String,
}

#[derive(clap::Args)]
struct Common {
    /// Compare the result with a slow reference; of a model: prove that its program computes it, with random weights if it has none
    #[arg(long)]
    check: bool,
    /// Time without storing or computing tensors
    #[arg(long)]
    no_data: bool,
    /// Report what the program does not order, as `run --sanitize`
    #[arg(long)]
    sanitize: bool,
    /// Seed of the inputs, which are N(0,1), or random bytes in a stream
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1
    )]
    seed: u64,
    /// Record what every engine did into a directory
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,
    /// Write the program: an object, or text if it is called .s
    #[arg(short, long, value_name = "F.elf")]
    output: Option<PathBuf>,
    /// Give up after this many chip cycles
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = DEFAULT_MAX_CYCLES, value_parser = clap::value_parser!(u64).range(1..))]
    max_cycles: u64,
}

/// The kinds of programs, each with what it computes.
fn kinds() -> PossibleValuesParser {
    let all = Kind::ALL.into_iter();
    PossibleValuesParser::new(all.map(|(_, name, help)| PossibleValue::new(name).help(help)))
}

/// The type of a row-wise operation's inputs.
fn rowwise_dtype(name: &str) -> Result<Dtype, CliError> {
    match name {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::Bf16),
        "f16" => Ok(Dtype::F16),
        "fp8" | "e4m3" => Ok(Dtype::E4m3),
        _ => Err(model::usage(OpError::Dtype {
            name: name.to_owned(),
            allowed: "f32, bf16, f16, fp8",
        })),
    }
}

/// What is not as in plain attention.
#[derive(Debug, clap::Args)]
struct FormArgs {
    /// Elements of a row of V and of O, if not --head-dim
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
    value_dim: Option<u64>,
    /// V is the first --value-dim elements of K's rows: the latents of DeepSeek's attention
    #[arg(long)]
    v_in_k: bool,
    /// A query sees the last so many keys, its own included
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = model::count)]
    window: Option<u64>,
    /// A score for each head that takes part in its softmax and has no value
    #[arg(long)]
    sinks: bool,
    /// K and V lie in pages of so many tokens, at places in random order that a table names
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = model::count)]
    page: Option<u64>,
}

impl FormArgs {
    fn form(&self) -> Form {
        Form {
            value_dim: self.value_dim,
            v_in_k: self.v_in_k,
            scale: None,
            window: self.window,
            sinks: self.sinks,
            page: self.page,
        }
    }
}

impl OpArgs {
    fn resolve(&self) -> Result<(Op, &Common), CliError> {
        match *self {
            OpArgs::Matmul {
                m,
                n,
                k,
                ref operands,
                ref common,
            } => {
                let dtype = MatmulType::parse(&operands.dtype).map_err(model::usage)?;
                Ok((Op::Matmul(Matmul::new(m, n, k, dtype)), common))
            }
            OpArgs::Attention {
                batch,
                heads,
                kv_heads,
                head_dim,
                q_len,
                kv_len,
                causal,
                ref form,
                ref operands,
                ref common,
            } => {
                let op = Attention {
                    batch,
                    heads,
                    kv_heads,
                    head_dim,
                    q_len,
                    kv_len,
                    causal,
                    dtype: parse_attention_dtype(&operands.dtype).map_err(model::usage)?,
                    form: form.form(),
                };
                Ok((Op::Attention(op), common))
            }
            OpArgs::Stream {
                ref stream,
                ref common,
            } => Ok((stream.resolve(common.check)?, common)),
            OpArgs::Table(_) => Err(CliError::usage("a table has no operation of its own")),
            OpArgs::Model { .. } => unreachable!("a model is more than an operation"),
            OpArgs::Rowwise {
                ref kind,
                rows,
                cols,
                ref dtype,
                ref common,
            } => {
                let dtype = rowwise_dtype(dtype)?;
                let Some(kind) = Kind::parse(kind) else {
                    return Err(CliError::usage(format!("kind `{kind}` is unknown")));
                };
                Ok((Op::Rowwise(kind.program(rows, cols, dtype)), common))
            }
        }
    }
}

pub fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    if let OpArgs::Stream { stream, .. } = &args.op
        && stream.table
    {
        return stream::table(context);
    }
    if let OpArgs::Table(table) = &args.op {
        return table::run(table, context);
    }
    if let OpArgs::Model { model, common } = &args.op {
        let common = decoder::Common {
            check: common.check,
            no_data: common.no_data,
            sanitize: common.sanitize,
            seed: common.seed,
            trace: common.trace.as_deref(),
            output: common.output.as_ref(),
            max_cycles: common.max_cycles,
        };
        return decoder::run(model, &common, context);
    }
    let chip = Arc::new(context.chip()?);
    let (op, common) = args.op.resolve()?;
    if common.check && common.no_data {
        return Err(CliError::usage(
            "--check: without data there is no result, --no-data stands against it",
        ));
    }
    let (compiled, compile_s) = model::compiled(&op, &chip, None, context)?;
    if let Some(path) = &common.output {
        model::write(&compiled, path)?;
        context.note(&format!("wrote {}", path.display()));
    }
    let (split_k, split_depth) = (compiled.plan.split_k, compiled.plan.split_depth);
    let image = Arc::new(compiled.image);
    let mut machine = simulate::load(&chip, &image, !common.no_data, op.name())?;
    inputs::steer(&mut machine, &op, common.seed)?;
    if !common.no_data {
        inputs::fill(&mut machine, &op, common.seed)?;
    }
    let findings = match common.sanitize {
        true => {
            let tensors = op.tensors();
            let inputs = tensors.iter().filter(|t| !t.output).map(|t| &t.name[..]);
            let given: Vec<&str> = inputs.collect();
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
    if let Some(dir) = &common.trace {
        simulate::write_trace(dir, &mut run, op.name())?;
    }
    let mut metrics = Metrics::new(&chip, work::of_op(&op, Some(split_k), &chip));
    metrics.measured = run.measured.take();
    metrics.program_bytes = image.program_bytes();
    metrics.wall_s = run.wall_s;
    metrics.compile_s = Some(compile_s);
    if common.check {
        let _progress = Progress::start("checking", context);
        metrics.check = Some(check::check(&run.machine, &op, split_depth, common.seed)?);
    }
    let mut extra = Map::new();
    extra.insert("op".into(), json!(op));
    extra.insert(
        "seed".into(),
        json!((!common.no_data).then_some(common.seed)),
    );
    extra.insert("events".into(), json!(run.events));
    let data = match (common.no_data, &op) {
        (true, _) => "without data".to_owned(),
        (false, Op::Stream(_)) => format!("random bytes of seed {}", common.seed),
        (false, _) => format!("data N(0,1) of seed {}", common.seed),
    };
    let places = match &op {
        Op::Attention(op) if op.form.page.is_some() => {
            format!(", pages in random order of seed {}", common.seed)
        }
        _ => String::new(),
    };
    let title = format!("{op} on {}, {data}{places}", chip.name);
    outcome::show(&title, &metrics, extra, findings.as_ref(), context)
}
