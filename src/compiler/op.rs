//! Operations as the user states them: shapes, element types, their tensors and their least work.
//!
//! Models: a matrix product C[m,n] = A[m,k] B[k,n], attention O = softmax(Q K^T / sqrt(dim)) V and streams through HBM
//! ([`Stream`]), with validation, the names and
//! shapes of their tensors, FLOP counts, compulsory bytes and the roofline bound. Leaves out: how they are computed
//! ([`super::plan`] and the lowerings). Invariant: an operation that [`Op::validate`] accepts has no product of extents that
//! overflows, and its tensors fit in HBM.

pub use super::bound::{Bound, BoundUnit};
use super::formats::{ATTENTION_DTYPES, MatmulType, Operand};
use super::rowwise::{Rowwise, graph::Graph};
pub use super::stream::Stream;
use crate::chip::{Chip, cost};
use crate::num::Dtype;
use serde::{Deserialize, Serialize};

/// Largest extent of any dimension: counts and row lengths of a transfer end at 2^32.
pub const MAX_EXTENT: u64 = 1 << 32;

/// Arithmetic slots that one unmasked attention score needs: scale and subtract, maximum, sum, convert.
const SLOTS_PER_SCORE: u64 = 4;

/// C[m,n] = A[m,k] B[k,n].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matmul {
    pub m: u64,
    pub n: u64,
    pub k: u64,
    /// Formats of A and B.
    pub dtype: MatmulType,
    /// Element type of C: BF16 or FP32.
    #[serde(default = "bf16", skip_serializing_if = "is_bf16")]
    pub out: Dtype,
    /// Type of A in HBM where loads quantise it to its blocks (E8M0 scales rounded up; NVFP4 under a tensor scale of 1): BF16, FP16 or
    /// FP32. Then A has no tensor of scales, and nobody multiplies by tensor scales. None: A lies there as it is multiplied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Dtype>,
}

fn bf16() -> Dtype {
    Dtype::Bf16
}

fn is_bf16(dtype: &Dtype) -> bool {
    *dtype == Dtype::Bf16
}

/// O[batch,q,heads,value_dim] from Q[batch,q,heads,dim], K[batch,kv,kv_heads,dim] and V[batch,kv,kv_heads,value_dim]. Query i of a
/// causal operation sees keys 0 ..= kv - q + i; a query that sees none gives zeros. Scores are scaled by 1 / sqrt(dim) unless
/// [`Form`] says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    pub batch: u64,
    pub heads: u64,
    /// Heads of K and V; divides `heads`.
    pub kv_heads: u64,
    pub head_dim: u64,
    pub q_len: u64,
    pub kv_len: u64,
    pub causal: bool,
    /// Element type of Q, K and V; O is BF16.
    pub dtype: Dtype,
    /// What is not as in plain attention.
    #[serde(default, skip_serializing_if = "Form::is_plain")]
    pub form: Form,
}

/// What an attention may have beside heads and lengths; the default is plain attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Form {
    /// Elements of a row of V and of O; none: as of K.
    pub value_dim: Option<u64>,
    /// V is the first `value_dim` elements of each row of K (the latents of multi-head latent attention): there is no tensor V.
    pub v_in_k: bool,
    /// Factor of the scores; none: 1 / sqrt(dim).
    pub scale: Option<f32>,
    /// A query sees the last so many of the keys that it else sees, its own included.
    pub window: Option<u64>,
    /// A tensor of F32 [heads]: a score that takes part in each softmax of its head and has no value.
    pub sinks: bool,
    /// K and V lie in pages of so many tokens: K[batch pages,page,kv_heads,dim], with page j of batch element b at place
    /// `pages[b][j]`, I32.
    pub page: Option<u64>,
}

impl Form {
    /// Whether it says nothing.
    pub fn is_plain(&self) -> bool {
        *self == Form::default()
    }
}

/// An operation to compile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    Matmul(Matmul),
    Attention(Attention),
    Stream(Stream),
    Rowwise(Rowwise),
}

/// An operation that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// An extent is zero or too large.
    #[error("{name} is {value}; it must be 1 to {MAX_EXTENT}")]
    Extent {
        /// As on the command line.
        name: &'static str,
        value: u64,
    },
    /// Rows of A that do not fall into whole blocks.
    #[error("k is {k}; rows that loads quantise are multiples of {block}")]
    Blocks { k: u64, block: u64 },
    /// Query heads cannot be shared out over the K and V heads.
    #[error("heads is {heads}, which is no multiple of kv-heads {kv_heads}")]
    Heads { heads: u64, kv_heads: u64 },
    /// V inside of rows of K that are shorter.
    #[error("value-dim is {value_dim}; V is a part of K's rows of head-dim {head_dim}")]
    ValueDim { value_dim: u64, head_dim: u64 },
    /// The tensors do not fit.
    #[error("the tensors take {bytes} bytes; the chip's HBM holds {limit}")]
    Hbm { bytes: u128, limit: u64 },
    /// A number of a stream out of its range.
    #[error("{name} is {value}; {limit}")]
    Stream {
        /// As on the command line.
        name: &'static str,
        value: u64,
        limit: String,
    },
    /// An element type that the operation does not take.
    #[error("dtype `{name}` is not one of {allowed}")]
    Dtype { name: String, allowed: &'static str },
    /// A row-wise program that cannot be.
    #[error(transparent)]
    Rowwise(super::rowwise::RowwiseError),
}

/// A tensor of an operation, in HBM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: Dtype,
    /// Outermost first.
    pub shape: Vec<u64>,
    /// Bytes between rows, where elements of less than a byte fill no whole number of bytes, and of a view of a wider matrix.
    pub pitch: Option<u64>,
    pub output: bool,
}

impl TensorSpec {
    /// Number of elements; saturates.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n: u64, d| n.saturating_mul(*d))
    }

    /// Size in bytes; wide, because it is asked before the operation is known to fit.
    pub fn bytes(&self) -> u128 {
        let product = |extents: &[u64]| {
            let wide = extents.iter().map(|d| u128::from(*d));
            wide.fold(1u128, u128::saturating_mul)
        };
        match (self.pitch, self.shape.split_last()) {
            (Some(pitch), Some((_, outer))) => product(outer).saturating_mul(u128::from(pitch)),
            _ => {
                let bits = product(&self.shape).saturating_mul(u128::from(self.dtype.bits()));
                bits.div_ceil(8)
            }
        }
    }
}

impl Matmul {
    /// A product to BF16.
    pub const fn new(m: u64, n: u64, k: u64, dtype: MatmulType) -> Matmul {
        let out = Dtype::Bf16;
        Matmul {
            m,
            n,
            k,
            dtype,
            out,
            input: None,
        }
    }

    /// Whether the sums are multiplied by an FP32 scale of A and one of B.
    pub fn tensor_scaled(&self) -> bool {
        self.dtype.tensor_scaled() && self.input.is_none()
    }

    /// Bytes of `elements` of a row of A, and of their scales, as they lie in HBM and come through a tile's port.
    pub(super) fn a_moved(&self, elements: u64) -> u64 {
        let a = self.dtype.operands().0;
        match self.input {
            Some(wide) => wide.bytes_for(elements),
            None => a.bytes(elements) + a.scale_blocks(elements),
        }
    }

    fn extents(&self) -> [(&'static str, u64); 3] {
        [("m", self.m), ("n", self.n), ("k", self.k)]
    }

    /// A, B, their scales if the format has any, and C. `A_scales` and `B_scales` are codes, [blocks along K, rows of A or columns
    /// of B]; `A_tensor_scale` and `B_tensor_scale` the factors of NVFP4.
    fn tensors(&self) -> Vec<TensorSpec> {
        let tensor = |name: &str, dtype, shape: &[u64]| TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            pitch: None,
            output: false,
        };
        let (a, b) = self.dtype.operands();
        let matrix = |name, of: Operand, rows, columns| TensorSpec {
            pitch: (of.granule() > 1).then(|| of.row(columns)),
            ..tensor(name, of.dtype, &[rows, columns])
        };
        let mut all = vec![
            match self.input {
                Some(wide) => tensor("A", wide, &[self.m, self.k]),
                None => matrix("A", a, self.m, self.k),
            },
            matrix("B", b, self.k, self.n),
        ];
        for (name, of, extent) in [("A_scales", a, self.m), ("B_scales", b, self.n)] {
            let made = name == "A_scales" && self.input.is_some();
            if of.scaled() && !made {
                let shape = [of.scale_blocks(self.k), extent];
                all.push(tensor(name, Dtype::U8, &shape));
            }
        }
        if self.tensor_scaled() {
            for name in ["A_tensor_scale", "B_tensor_scale"] {
                all.push(tensor(name, Dtype::F32, &[1]));
            }
        }
        all.push(TensorSpec {
            output: true,
            ..tensor("C", self.out, &[self.m, self.n])
        });
        all
    }
}

impl Attention {
    fn extents(&self) -> [(&'static str, u64); 9] {
        [
            ("batch", self.batch),
            ("heads", self.heads),
            ("kv-heads", self.kv_heads),
            ("head-dim", self.head_dim),
            ("q-len", self.q_len),
            ("kv-len", self.kv_len),
            ("value-dim", self.value_dim()),
            ("window", self.form.window.unwrap_or(1)),
            ("page", self.form.page.unwrap_or(1)),
        ]
    }

    /// Elements of a row of V and of O.
    pub fn value_dim(&self) -> u64 {
        self.form.value_dim.unwrap_or(self.head_dim)
    }

    /// Factor of the scores.
    pub fn scale(&self) -> f64 {
        let plain = 1.0 / (self.head_dim as f64).sqrt();
        self.form.scale.map_or(plain, f64::from)
    }

    /// Pages of a batch element; 0 if K and V are not in pages.
    pub fn pages(&self) -> u64 {
        self.form.page.map_or(0, |page| self.kv_len.div_ceil(page))
    }

    /// Keys that some query sees: the last ones of a window.
    pub fn seen_keys(&self) -> u64 {
        let reach = |w: u64| w.saturating_add(self.q_len - 1);
        let window = self.form.window.map_or(u64::MAX, reach);
        self.kv_len.min(window)
    }

    /// Scores that the mask leaves in one head: over queries i the keys kv - q + i and before, or all of them, no more than
    /// the window.
    pub fn scores_per_head(&self) -> u128 {
        let (q, kv) = (u128::from(self.q_len), u128::from(self.kv_len));
        if let Some(window) = self.form.window.map(u128::from).filter(|w| *w < kv) {
            if !self.causal {
                return q * window;
            }
            // The last query sees the window, as do those before it that have as many keys in front of them; of the others the
            // first sees one key less, the next two, ...
            let seeing = q.min(kv);
            let full = seeing.min(kv - window + 1);
            let short = seeing - full;
            return full * window + short * (2 * window - short - 1) / 2;
        }
        if !self.causal {
            return q * kv;
        }
        // The last query sees kv keys, the one before kv - 1, ... down to 1 or to the first query.
        let seeing = q.min(kv);
        seeing * kv - seeing * (seeing - 1) / 2
    }

    /// Scores that the mask leaves, over batch and heads.
    pub fn scores(&self) -> u128 {
        u128::from(self.batch) * u128::from(self.heads) * self.scores_per_head()
    }
}

impl Op {
    /// Checks extents, head counts, the element type and HBM capacity.
    pub fn validate(&self, chip: &Chip) -> Result<(), OpError> {
        let extents: &[(&'static str, u64)] = match self {
            Op::Matmul(op) => &op.extents(),
            Op::Attention(op) => &op.extents(),
            Op::Stream(op) => {
                op.validate()?;
                &[]
            }
            Op::Rowwise(program) => {
                program.validate()?;
                &[("rows", program.rows), ("cols", program.cols)]
            }
        };
        if let Some(&(name, value)) = extents.iter().find(|(_, v)| *v == 0 || *v > MAX_EXTENT) {
            return Err(OpError::Extent { name, value });
        }
        if let Op::Matmul(op) = self
            && !matches!(op.out, Dtype::Bf16 | Dtype::F32)
        {
            return Err(OpError::Dtype {
                name: op.out.name().to_owned(),
                allowed: "bf16, f32 for C",
            });
        }
        if let Op::Matmul(op) = self
            && let Some(input) = op.input
        {
            let block = op.dtype.operands().0.scale_block();
            if block == 0 || !matches!(input, Dtype::Bf16 | Dtype::F16 | Dtype::F32) {
                return Err(OpError::Dtype {
                    name: input.name().to_owned(),
                    allowed: "bf16, f16, f32 for an A that becomes blocks",
                });
            }
            if !op.k.is_multiple_of(block) {
                return Err(OpError::Blocks { k: op.k, block });
            }
        }
        if let Op::Attention(op) = self
            && !op.heads.is_multiple_of(op.kv_heads)
        {
            return Err(OpError::Heads {
                heads: op.heads,
                kv_heads: op.kv_heads,
            });
        }
        if let Op::Attention(op) = self
            && op.form.v_in_k
            && op.value_dim() > op.head_dim
        {
            return Err(OpError::ValueDim {
                value_dim: op.value_dim(),
                head_dim: op.head_dim,
            });
        }
        if let Op::Attention(op) = self
            && !matches!(op.dtype, Dtype::Bf16 | Dtype::E4m3)
        {
            return Err(OpError::Dtype {
                name: op.dtype.name().to_owned(),
                allowed: ATTENTION_DTYPES,
            });
        }
        let bytes = self.tensors().iter().fold(0u128, |sum, t| {
            // Six extents of 2^32 pass 2^128, where sizes saturate; tensors lie on 256-byte boundaries.
            sum.saturating_add(t.bytes()).saturating_add(256)
        });
        let limit = chip.hbm_bytes();
        if bytes > u128::from(limit) {
            return Err(OpError::Hbm { bytes, limit });
        }
        Ok(())
    }

    /// Element types of the two operands of its matrix products, if it has any.
    pub fn dtypes(&self) -> Option<(Dtype, Dtype)> {
        match self {
            Op::Matmul(op) => Some(op.dtype.dtypes()),
            Op::Attention(op) => Some((op.dtype, op.dtype)),
            Op::Stream(_) | Op::Rowwise(_) => None,
        }
    }

    /// `matmul`, `attention`, `stream` or `rowwise`.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Matmul(_) => "matmul",
            Op::Attention(_) => "attention",
            Op::Stream(_) => "stream",
            Op::Rowwise(_) => "rowwise",
        }
    }

    /// The tensors in the order of their places in HBM: inputs, then the output.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let tensor = |name: &str, dtype, shape: &[u64], output| TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            pitch: None,
            output,
        };
        match self {
            Op::Matmul(op) => op.tensors(),
            Op::Attention(op) => {
                let q = |dim| [op.batch, op.q_len, op.heads, dim];
                let kv = |dim| match op.form.page {
                    None => [op.batch, op.kv_len, op.kv_heads, dim],
                    Some(page) => [op.batch.saturating_mul(op.pages()), page, op.kv_heads, dim],
                };
                let (dim, value_dim) = (op.head_dim, op.value_dim());
                let mut all = vec![
                    tensor("Q", op.dtype, &q(dim), false),
                    tensor("K", op.dtype, &kv(dim), false),
                ];
                if !op.form.v_in_k {
                    all.push(tensor("V", op.dtype, &kv(value_dim), false));
                }
                if op.form.sinks {
                    all.push(tensor("sinks", Dtype::F32, &[op.heads], false));
                }
                if op.form.page.is_some() {
                    all.push(tensor("pages", Dtype::I32, &[op.batch, op.pages()], false));
                }
                all.push(tensor("O", Dtype::Bf16, &q(value_dim), true));
                all
            }
            Op::Stream(op) => op.tensors(),
            Op::Rowwise(p) => {
                let inputs =
                    (p.inputs.iter()).map(|i| (&i.name, i.dtype, i.spread, i.pitch, false));
                let outputs =
                    (p.outputs.iter()).map(|o| (&o.name, o.dtype, o.spread, o.pitch, true));
                let all = inputs.chain(outputs);
                all.map(|(name, dtype, spread, pitch, output)| {
                    let mut shape = spread.shape(p.rows, p.cols);
                    if pitch.is_some() && shape.len() == 1 {
                        shape.push(1);
                    }
                    let element = u64::from(dtype.bits() / 8);
                    TensorSpec {
                        pitch: pitch.map(|p| p.saturating_mul(element)),
                        ..tensor(name, dtype, &shape, output)
                    }
                })
                .collect()
            }
        }
    }

    /// Floating-point operations of the matrix products, a multiply-add counting 2; causal attention counts what the mask
    /// leaves. Exact: 2 m n k, or 2 (head_dim + value_dim) per score.
    pub fn flops(&self) -> u128 {
        match self {
            Op::Matmul(op) => 2 * u128::from(op.m) * u128::from(op.n) * u128::from(op.k),
            Op::Attention(op) => 2 * u128::from(op.head_dim + op.value_dim()) * op.scores(),
            Op::Stream(_) | Op::Rowwise(_) => 0,
        }
    }

    /// Bytes that must cross HBM at least: every input read once, the output written once.
    pub fn compulsory_bytes(&self) -> (u64, u64) {
        let sum = |output| {
            let bytes = self
                .tensors()
                .iter()
                .filter(|t| t.output == output)
                .map(|t| u128::from(self.least_bytes(t)))
                .sum::<u128>();
            u64::try_from(bytes).unwrap_or(u64::MAX)
        };
        (sum(false), sum(true))
    }

    /// Those of one of its tensors.
    pub fn least_bytes(&self, t: &TensorSpec) -> u64 {
        let bytes = match self {
            // A view of a wider matrix: what lies between its rows is not its own.
            Op::Rowwise(_) => u128::from(t.elements()) * u128::from(t.dtype.bits() / 8),
            // Of keys and values those that a query sees.
            Op::Attention(op) if matches!(t.name.as_str(), "K" | "V") => {
                let dim = t.shape[3];
                let tokens = u128::from(op.batch) * u128::from(op.seen_keys());
                tokens * u128::from(op.kv_heads * dim) * u128::from(t.dtype.bits() / 8)
            }
            _ => t.bytes(),
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The largest over units of least work / peak: tensor FLOP, for attention one exp2 and four arithmetic slots per score,
    /// compulsory bytes over HBM, and over the clusters' ports in each direction.
    pub fn bound(&self, chip: &Chip) -> Bound {
        let (read, written) = self.compulsory_bytes();
        let per = |work: f64, rate: u64| work / (rate.max(1) as f64);
        let tensor = self.dtypes().map_or(0.0, |(a, b)| {
            per(self.flops() as f64, cost::peak_flops(chip, a, b))
        });
        let hbm = per(
            read as f64 + written as f64,
            cost::hbm_peak_bytes_per_s(chip),
        );
        let ports =
            u64::from(chip.clusters) * u64::from(chip.noc.cluster_port_bytes) * chip.clock_hz;
        let noc = per(read.max(written) as f64, ports);
        let mut units = vec![
            (BoundUnit::Tensor, tensor),
            (BoundUnit::Hbm, hbm),
            (BoundUnit::Noc, noc),
        ];
        if let Op::Rowwise(program) = self {
            let graph = Graph::new(program);
            let elements = program.rows as f64 * program.cols as f64;
            let (special, slots) = graph.work();
            let exp2 = per(elements * special as f64, cost::exp2_rate(chip));
            let slots = per(elements * slots as f64, cost::arithmetic_slots_rate(chip));
            units.insert(1, (BoundUnit::Vector, exp2.max(slots)));
        }
        if let Op::Attention(op) = self {
            let scores = op.scores() as f64;
            let exp2 = per(scores, cost::exp2_rate(chip));
            let slots = per(
                scores * SLOTS_PER_SCORE as f64,
                cost::arithmetic_slots_rate(chip),
            );
            units.insert(1, (BoundUnit::Vector, exp2.max(slots)));
        }
        Bound::of(units)
    }
}

/// A `--dtype` value and what it stands for.
fn shown(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::E4m3 => "fp8 (e4m3)",
        other => other.name(),
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Op::Matmul(op) => write!(
                f,
                "matmul C[{m},{n}] = A[{m},{k}] B[{k},{n}], {dt}{from}{to}",
                m = op.m,
                n = op.n,
                k = op.k,
                dt = op.dtype,
                from = op.input.map_or(String::new(), |t| format!(" from {t}")),
                to = if is_bf16(&op.out) { "" } else { " to f32" }
            ),
            Op::Attention(op) => {
                write!(
                    f,
                    "attention batch {}, heads {}, kv-heads {}, head-dim {}, q {}, kv {}{}, {}",
                    op.batch,
                    op.heads,
                    op.kv_heads,
                    op.head_dim,
                    op.q_len,
                    op.kv_len,
                    if op.causal { ", causal" } else { "" },
                    shown(op.dtype)
                )?;
                op.form.fmt(f)
            }
            Op::Stream(op) => op.fmt(f),
            Op::Rowwise(p) => {
                let named = |all: &mut dyn Iterator<Item = (&String, Dtype)>| {
                    let all: Vec<String> = all.map(|(n, t)| format!("{n} {t}")).collect();
                    all.join(", ")
                };
                write!(
                    f,
                    "rowwise [{}, {}], {} steps, {} -> {}",
                    p.rows,
                    p.cols,
                    p.steps.len(),
                    named(&mut p.inputs.iter().map(|i| (&i.name, i.dtype))),
                    named(&mut p.outputs.iter().map(|o| (&o.name, o.dtype)))
                )
            }
        }
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in [
            ("value-dim", self.value_dim),
            ("window", self.window),
            ("page", self.page),
        ] {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        if let Some(scale) = self.scale {
            write!(f, ", scale {scale}")?;
        }
        for (name, is) in [("V in K", self.v_in_k), ("sinks", self.sinks)] {
            if is {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "op_tests.rs"]
mod tests;
