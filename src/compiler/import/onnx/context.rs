//! What the translation of a node has at hand: its operands, its attributes, and the graph so far.
//!
//! Models: values that are on the host (shapes and what follows from them), stored (initialisers) or on the chip, under one
//! type [`Val`], so that an operation is written once. Leaves out: the operations themselves. Invariant: what is on the chip
//! came from a graph input or is too large to fold, and never comes back to the host.

use super::proto;
use super::tensor::{Elem, Numbers, Stored};
use crate::compiler::graph::{
    Builder, Data, GraphError, Problem, ValueId, View, elements, op::MAX_RANK, op::broadcast,
};
use crate::compiler::import::ImportError;
use crate::compiler::op::MAX_EXTENT;
use crate::num::Dtype;
use std::collections::HashMap;
use std::rc::Rc;

/// Elements that a tensor may have to be folded: index arithmetic, not data.
const FOLD_LIMIT: u64 = 1 << 20;

/// Where a value is.
#[derive(Clone, Debug)]
pub enum Where {
    Host(Rc<Numbers>),
    Stored(Rc<Stored>),
    Chip(ValueId),
}

/// A value of the model.
#[derive(Clone, Debug)]
pub struct Val {
    pub elem: Elem,
    /// On the host extents may be 0.
    pub shape: Vec<u64>,
    pub place: Where,
}

impl Val {
    /// Integers on the host.
    pub fn ints(shape: &[u64], values: Vec<i64>) -> Val {
        Val {
            elem: Elem::Int64,
            shape: shape.to_vec(),
            place: Where::Host(Rc::new(Numbers::Int(values))),
        }
    }

    /// A value without elements; the chip has no such tensors.
    pub fn empty(elem: Elem, shape: &[u64]) -> Val {
        let nothing = match elem.is_int() {
            true => Numbers::Int(vec![]),
            false => Numbers::Float(vec![]),
        };
        Val {
            elem,
            shape: shape.to_vec(),
            place: Where::Host(Rc::new(nothing)),
        }
    }

    pub fn elements(&self) -> u64 {
        elements(&self.shape)
    }

    /// Whether it is known now, and small enough to be folded.
    pub fn foldable(&self) -> bool {
        !matches!(self.place, Where::Chip(_)) && self.elements() <= FOLD_LIMIT
    }

    /// Its values, if it is foldable.
    pub fn host(&self) -> Result<Option<Rc<Numbers>>, ImportError> {
        match &self.place {
            Where::Host(numbers) => Ok(Some(numbers.clone())),
            Where::Stored(stored) if self.foldable() => stored.numbers().map(Some),
            _ => Ok(None),
        }
    }
}

/// The state of an import.
pub struct Context {
    pub builder: Builder,
    /// Version of the standard operators.
    pub opset: i64,
    pub values: HashMap<String, Val>,
    /// Shapes that the model states, all extents known.
    pub declared: HashMap<String, Vec<u64>>,
    /// Constants already in the graph, by the name of the initialiser.
    stored: HashMap<String, ValueId>,
    /// Elements of folded values.
    pub folded: usize,
    /// Where the current node stands.
    pub place: String,
}

type Result<T, E = ImportError> = std::result::Result<T, E>;

/// A node of the source with its operands.
pub struct Call<'a> {
    pub node: &'a proto::Node,
    /// `None`: left out.
    pub inputs: Vec<Option<Val>>,
}

impl Context {
    pub fn new(name: &str, opset: i64) -> Context {
        let mut builder = Builder::new(name);
        builder.overflow_to_infinity();
        Context {
            builder,
            opset,
            values: HashMap::new(),
            declared: HashMap::new(),
            stored: HashMap::new(),
            folded: 0,
            place: name.to_owned(),
        }
    }

    /// An error about the current node.
    pub fn unsupported<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(ImportError::Unsupported {
            place: self.place.clone(),
            what: what.into(),
        })
    }

    pub fn problem<T>(&self, problem: Problem) -> Result<T> {
        Err(GraphError {
            place: self.place.clone(),
            problem,
        }
        .into())
    }

    /// A constant of truth values, U8 as BOOL is kept: at most 2^26, for which `at` is asked in order.
    pub fn truth(&mut self, shape: &[u64], at: impl Fn(u64) -> bool) -> Result<ValueId> {
        let count = elements(shape);
        if count > 1 << 26 {
            return self.unsupported(format!("a mask of {shape:?}, over 2^26 elements"));
        }
        let bytes = (0..count).map(|i| u8::from(at(i))).collect();
        let data = Data::Bytes(bytes);
        Ok(self.builder.constant("%mask", Dtype::U8, shape, data)?)
    }

    /// The value in the graph; constants are added on their first use.
    pub fn chip(&mut self, val: &Val) -> Result<ValueId> {
        let dtype = val.elem.dtype();
        if val.elements() == 0 {
            let shape = &val.shape;
            return self.unsupported(format!(
                "a tensor {shape:?} without elements; the chip has no such tensors"
            ));
        }
        match &val.place {
            Where::Chip(id) => Ok(*id),
            Where::Host(numbers) => {
                let bytes = numbers.encode(dtype);
                let bytes = bytes.or_else(|e| self.unsupported(e))?;
                let name = "%constant".to_owned();
                let data = Data::Bytes(bytes.into());
                Ok(self.builder.constant(&name, dtype, &val.shape, data)?)
            }
            Where::Stored(stored) => {
                if let Some(id) = self.stored.get(&stored.name) {
                    return Ok(*id);
                }
                let data = stored.data()?;
                let id = self
                    .builder
                    .constant(&stored.name, dtype, &val.shape, data)?;
                self.stored.insert(stored.name.clone(), id);
                Ok(id)
            }
        }
    }

    /// A value of the graph with its type of ONNX.
    pub fn val(&self, id: ValueId, elem: Elem) -> Val {
        Val {
            elem,
            shape: self.builder.shape(id).to_vec(),
            place: Where::Chip(id),
        }
    }

    /// A view of a value: on the host for what is foldable there.
    pub fn view(&mut self, x: &Val, view: View) -> Result<Val> {
        let size = elements(&view.shape);
        if size == 0 {
            return Ok(Val::empty(x.elem, &view.shape));
        }
        if size <= FOLD_LIMIT
            && let Some(numbers) = x.host()?
        {
            return Ok(Val {
                elem: x.elem,
                shape: view.shape.clone(),
                place: Where::Host(Rc::new(numbers.pick(view.indices()))),
            });
        }
        let id = self.chip(x)?;
        let id = self.builder.layout(id, view)?;
        Ok(self.val(id, x.elem))
    }

    pub fn reshape(&mut self, x: &Val, shape: &[u64]) -> Result<Val> {
        if elements(shape) != x.elements() {
            return self.problem(Problem::Shape {
                value: "the operand".to_owned(),
                got: x.shape.clone(),
                want: shape.to_vec(),
            });
        }
        self.view(x, View::reshape(shape))
    }

    pub fn transpose(&mut self, x: &Val, order: &[usize]) -> Result<Val> {
        self.view(x, View::transpose(&x.shape, order))
    }

    pub fn slice(&mut self, x: &Val, axis: usize, start: u64, count: u64) -> Result<Val> {
        self.view(x, View::slice(&x.shape, axis, start, 1, count))
    }

    pub fn expand(&mut self, x: &Val, to: &[u64]) -> Result<Val> {
        match View::expand(&x.shape, to) {
            Some(view) => self.view(x, view),
            None => self.problem(Problem::Broadcast {
                a: x.shape.clone(),
                b: to.to_vec(),
            }),
        }
    }

    /// An axis, counted from the end if negative.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let from_end = if axis < 0 { rank as i64 } else { 0 };
        let at = usize::try_from(axis.saturating_add(from_end)).ok();
        match at.filter(|at| *at < rank) {
            Some(at) => Ok(at),
            None => self.unsupported(format!("axis {axis} of {rank}")),
        }
    }

    /// Shape of what two values broadcast to.
    pub fn broadcast(&self, a: &[u64], b: &[u64]) -> Result<Vec<u64>> {
        match broadcast(a, b) {
            Some(shape) => Ok(shape),
            None => self.problem(Problem::Broadcast {
                a: a.to_vec(),
                b: b.to_vec(),
            }),
        }
    }

    /// A shape as the operand of a node gives it; extents are checked before anything has that size.
    pub fn shape_of(&self, extents: &[i64]) -> Result<Vec<u64>> {
        let extent = |d: &i64| u64::try_from(*d).ok().filter(|d| *d <= MAX_EXTENT);
        let shape: Option<Vec<u64>> = extents.iter().map(extent).collect();
        match shape.filter(|s| s.len() <= MAX_RANK) {
            Some(shape) => Ok(shape),
            None => self.unsupported(format!("shape {extents:?}")),
        }
    }
}

impl Call<'_> {
    /// An operand that must be there.
    pub fn input(&self, context: &Context, at: usize) -> Result<Val> {
        match self.optional(at) {
            Some(val) => Ok(val),
            None => context.unsupported(format!("operand {at} is missing")),
        }
    }

    pub fn optional(&self, at: usize) -> Option<Val> {
        self.inputs.get(at).cloned().flatten()
    }

    fn attribute(&self, name: &str) -> Option<&proto::Attribute> {
        self.node.attribute.iter().find(|a| a.name == name)
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        let found = self.attribute(name).and_then(|a| a.i);
        found.unwrap_or(default)
    }

    pub fn optional_int(&self, name: &str) -> Option<i64> {
        self.attribute(name).and_then(|a| a.i)
    }

    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.optional_float(name).unwrap_or(default)
    }

    pub fn optional_float(&self, name: &str) -> Option<f32> {
        self.attribute(name).and_then(|a| a.f)
    }

    pub fn text(&self, name: &str) -> Option<String> {
        let bytes = self.attribute(name).and_then(|a| a.s.as_ref());
        bytes.map(|b| String::from_utf8_lossy(b).into_owned())
    }

    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| &a.ints[..])
    }

    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attribute(name).map(|a| &a.floats[..])
    }

    pub fn tensor(&self, name: &str) -> Option<&proto::Tensor> {
        self.attribute(name).and_then(|a| a.t.as_ref())
    }

    /// Whether the node has this result.
    pub fn wants(&self, at: usize) -> bool {
        self.node
            .output
            .get(at)
            .is_some_and(|name| !name.is_empty())
    }

    /// Integers of an operand that must be known now; `None` if the operand is left out.
    ///
    /// # Errors
    /// An operand that depends on inputs of the graph.
    pub fn known(&self, context: &Context, at: usize, what: &str) -> Result<Option<Vec<i64>>> {
        let Some(val) = self.optional(at) else {
            return Ok(None);
        };
        match val.host()?.as_deref() {
            Some(Numbers::Int(v)) => Ok(Some(v.clone())),
            Some(Numbers::Float(_)) => context.unsupported(format!("{what} are no integers")),
            None => context.unsupported(format!("{what} depend on the inputs of the graph")),
        }
    }

    /// Like [`Call::known`], for what older operator sets give as an attribute.
    pub fn list(&self, context: &Context, name: &str, at: usize) -> Result<Option<Vec<i64>>> {
        match self.ints(name) {
            Some(ints) => Ok(Some(ints.to_vec())),
            None => self.known(context, at, name),
        }
    }

    /// The shape that the model states for a result.
    pub fn declared<'a>(&self, context: &'a Context, at: usize) -> Option<&'a Vec<u64>> {
        let name = self.node.output.get(at)?;
        context.declared.get(name)
    }

    /// Whether an operand depends on inputs of the graph.
    pub fn on_chip(&self, at: usize) -> bool {
        self.optional(at).is_some_and(|v| !v.foldable())
    }
}

/// The chip's type of a value.
pub fn dtype(val: &Val) -> Dtype {
    val.elem.dtype()
}
