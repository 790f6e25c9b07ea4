//! Whether a graph is one: every rule in one pass, and errors that say where.
//!
//! Models: the invariants of [`super`], including what must be in HBM at once at least. Leaves out: whether the chip has a
//! lowering for each operation. Invariant: time and memory grow with values and nodes, never with the sizes of tensors.

use super::op::{MAX_RANK, sized};
use super::{Data, Graph, Kind, Value, ValueId};
use crate::chip::Chip;
use crate::compiler::op::{MAX_EXTENT, OpError};

/// A rule that a node or a value breaks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("{got} {what}, {want} wanted")]
    Arity {
        what: &'static str,
        got: usize,
        want: usize,
    },
    #[error("`{value}` is {got}; wanted: {want}")]
    Dtype {
        value: String,
        got: &'static str,
        want: String,
    },
    #[error("`{value}` has shape {got:?}; wanted {want:?}")]
    Shape {
        value: String,
        got: Vec<u64>,
        want: Vec<u64>,
    },
    #[error("`{value}` has shape {shape:?}; {want} axes wanted")]
    Rank {
        value: String,
        shape: Vec<u64>,
        want: usize,
    },
    #[error("`{value}` has shape {shape:?}; {want} elements wanted")]
    Elements {
        value: String,
        shape: Vec<u64>,
        want: u64,
    },
    #[error("`{value}` has shape {shape:?} and no axis {axis}")]
    Axis {
        value: String,
        shape: Vec<u64>,
        axis: usize,
    },
    #[error("shapes {a:?} and {b:?} do not multiply")]
    Product { a: Vec<u64>, b: Vec<u64> },
    #[error("shapes {a:?} and {b:?} do not broadcast")]
    Broadcast { a: Vec<u64>, b: Vec<u64> },
    #[error("heads is {heads}, which is no multiple of kv-heads {kv_heads}")]
    Heads { heads: u64, kv_heads: u64 },
    #[error("{name} is {value}; it must be {limit}")]
    Attribute {
        name: &'static str,
        value: String,
        limit: &'static str,
    },
    #[error("reads elements {low} to {high} of `{value}`, which has {elements}")]
    View {
        value: String,
        elements: u64,
        low: i128,
        high: i128,
    },
    #[error(
        "`{value}` has shape {shape:?}; a tensor has at most {MAX_RANK} axes of 1 to {MAX_EXTENT} and 2^58 elements"
    )]
    Size { value: String, shape: Vec<u64> },
    #[error("`{value}` is used before anything makes it: a cycle, or nodes out of order")]
    Order { value: String },
    #[error("`{value}` is made twice")]
    Twice { value: String },
    #[error("nothing makes `{value}`")]
    Unmade { value: String },
    #[error("value {0} does not exist")]
    NoValue(u32),
    #[error("constant `{value}` of {want} bytes holds {got}")]
    Constant { value: String, want: u64, got: u64 },
    #[error(transparent)]
    Rowwise(#[from] OpError),
    #[error(
        "{what} take {bytes} bytes; the chip's HBM holds {limit}: {} too many",
        bytes - limit
    )]
    Hbm {
        what: String,
        bytes: u64,
        limit: u64,
    },
}

impl Problem {
    /// A value of another type than is taken.
    pub fn dtype(value: &Value, want: impl Into<String>) -> Problem {
        Problem::Dtype {
            value: value.name.clone(),
            got: value.dtype.name(),
            want: want.into(),
        }
    }

    /// A value of another shape than is taken.
    pub fn shape(value: &Value, want: &[u64]) -> Problem {
        Problem::Shape {
            value: value.name.clone(),
            got: value.shape.clone(),
            want: want.to_vec(),
        }
    }

    /// A value without that axis.
    pub fn axis(value: &Value, axis: usize) -> Problem {
        Problem::Axis {
            value: value.name.clone(),
            shape: value.shape.clone(),
            axis,
        }
    }
}

/// A graph that is none.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct GraphError {
    /// The node's place in its source, or the value or graph.
    pub place: String,
    pub problem: Problem,
}

impl Graph {
    /// Checks every invariant; `chip`: also that inputs, constants and outputs fit in its HBM, and each node's operands and
    /// results beside the constants.
    ///
    /// # Errors
    /// The first rule that is broken, in the order of values, nodes, sizes.
    pub fn verify(&self, chip: Option<&Chip>) -> Result<(), GraphError> {
        let fail = |place: &str, problem| GraphError {
            place: place.to_owned(),
            problem,
        };
        for value in &self.values {
            self.value(value).map_err(|p| fail(&self.name, p))?;
        }
        let mut made = self.given().map_err(|p| fail(&self.name, p))?;
        for node in &self.nodes {
            let at = |problem| fail(&node.place, problem);
            for id in node.inputs.iter().chain(&node.outputs) {
                if id.0 as usize >= self.values.len() {
                    return Err(at(Problem::NoValue(id.0)));
                }
            }
            for id in &node.inputs {
                if !made[id.0 as usize] {
                    let value = self[*id].name.clone();
                    return Err(at(Problem::Order { value }));
                }
            }
            for id in &node.outputs {
                if std::mem::replace(&mut made[id.0 as usize], true) {
                    let value = self[*id].name.clone();
                    return Err(at(Problem::Twice { value }));
                }
            }
            let inputs: Vec<&Value> = self.list(&node.inputs).collect();
            let outputs: Vec<&Value> = self.list(&node.outputs).collect();
            node.op.check(&inputs, &outputs).map_err(at)?;
        }
        if let Some(at) = made.iter().position(|made| !made) {
            let value = self.values[at].name.clone();
            return Err(fail(&self.name, Problem::Unmade { value }));
        }
        chip.map_or(Ok(()), |chip| self.fits(chip.hbm_bytes()))
    }

    fn value(&self, value: &Value) -> Result<(), Problem> {
        if sized(&value.shape).is_none() {
            return Err(Problem::Size {
                value: value.name.clone(),
                shape: value.shape.clone(),
            });
        }
        let got = match &value.kind {
            Kind::Constant(Data::Bytes(bytes)) => bytes.len() as u64,
            Kind::Constant(Data::File(range)) => range.bytes,
            Kind::Constant(Data::Derived(derived)) => derived.bytes(),
            Kind::Constant(Data::Drawn(drawn)) => drawn.bytes(),
            _ => return Ok(()),
        };
        match got == value.bytes() {
            true => Ok(()),
            false => Err(Problem::Constant {
                value: value.name.clone(),
                want: value.bytes(),
                got,
            }),
        }
    }

    /// Which values exist before any node runs; that the lists of inputs and outputs say what the kinds say.
    fn given(&self) -> Result<Vec<bool>, Problem> {
        let given = |v: &Value| matches!(v.kind, Kind::Input | Kind::Constant(_));
        for (ids, kind) in [(&self.inputs, Kind::Input), (&self.outputs, Kind::Output)] {
            let mut listed = vec![false; self.values.len()];
            for id in ids {
                let value = self.values.get(id.0 as usize);
                let value = value.ok_or(Problem::NoValue(id.0))?;
                if std::mem::replace(&mut listed[id.0 as usize], true) {
                    let value = value.name.clone();
                    return Err(Problem::Twice { value });
                }
            }
            let marked = self.values.iter().map(|v| v.kind == kind);
            if let Some(at) = marked.zip(&listed).position(|(a, b)| a != *b) {
                let value = self.values[at].name.clone();
                return Err(Problem::Unmade { value });
            }
        }
        Ok(self.values.iter().map(given).collect())
    }

    fn fits(&self, limit: u64) -> Result<(), GraphError> {
        let size = |ids: &mut dyn Iterator<Item = &Value>| {
            ids.fold(0u64, |sum, v| sum.saturating_add(v.bytes()))
        };
        let check = |place: &str, what: String, bytes| match bytes > limit {
            true => Err(GraphError {
                place: place.to_owned(),
                problem: Problem::Hbm { what, bytes, limit },
            }),
            false => Ok(()),
        };
        let kept = |v: &&Value| v.kind != Kind::Intermediate;
        for value in &self.values {
            let what = format!("the elements of `{}` {:?}", value.name, value.shape);
            check(&self.name, what, value.bytes())?;
        }
        let always = size(&mut self.values.iter().filter(kept));
        let what = "inputs, constants and outputs".to_owned();
        check(&self.name, what, always)?;
        for node in &self.nodes {
            let mut ids: Vec<ValueId> = [&node.inputs[..], &node.outputs].concat();
            ids.sort_unstable();
            ids.dedup();
            let beside = size(&mut self.list(&ids).filter(|v| v.kind == Kind::Intermediate));
            let what = "its operands and results beside the inputs, constants and outputs";
            check(&node.place, what.to_owned(), always.saturating_add(beside))?;
        }
        Ok(())
    }
}
