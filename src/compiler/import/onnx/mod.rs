//! ONNX files as graphs.
//!
//! Models: files of IR version 3 to 12 with the operators of opset 7 to 24 that inference of language models needs; the modules
//! below list them. Element types of 64 bits and booleans become the chip's (see [`tensor`]). Leaves out: control flow, functions
//! of the model's own, sequences, sparse tensors, convolutions. Invariants: graph inputs are never constants (an initialiser of
//! the same name is a default that a run replaces; before IR version 4 the format demanded every initialiser to be listed as an
//! input, and those are constants); the host evaluates shape arithmetic and the layout of small constants, nothing else; nodes may
//! stand in any order, a cycle is an error; what is past the largest number of F16 or BF16 is infinite, but of products and attention
//! it saturates.
//!
//! Reading order: [`proto`], [`tensor`], [`context`], then [`movement`], [`elementwise`], [`rows`], [`products`], [`quantise`], [`fnuz`].

pub mod context;
pub mod elementwise;
pub mod fnuz;
pub mod movement;
pub mod products;
pub mod proto;
pub mod quantise;
pub mod rows;
pub mod tensor;

#[cfg(test)]
mod tests;

use super::{ImportError, Imported};
use context::{Call, Context, Val, Where};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::rc::Rc;
use tensor::{Elem, Stored};

pub use tensor::read_tensor;

/// Nodes of a graph: models of hundreds of layers have a tenth of them.
const MAX_NODES: usize = 1 << 16;

/// Numbers that the host holds for all folded values together: shape arithmetic, and small constants laid out.
const MAX_FOLDED: usize = 1 << 26;

/// Larger messages are no protobuf files; weights beyond it are external data.
const FILE_LIMIT: u64 = 1 << 31;

type Result<T> = std::result::Result<T, ImportError>;

/// Imports a file. `extents`: those that the model leaves open, by name.
///
/// # Errors
/// See [`ImportError`].
pub fn read(path: &Path, extents: &[(String, u64)]) -> Result<Imported> {
    let open = |error| ImportError::Open {
        path: path.display().to_string(),
        error,
    };
    let mut bytes = Vec::new();
    let file = super::open(path).map_err(open)?;
    file.take(FILE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(open)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(ImportError::Format(format!(
            "larger than {FILE_LIMIT} bytes"
        )));
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let name = path
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    from_bytes(&bytes, &name, Some(dir), extents)
}

/// Imports the bytes of a file. `dir`: where its external data is.
///
/// # Errors
/// See [`ImportError`].
pub fn from_bytes(
    bytes: &[u8],
    name: &str,
    dir: Option<&Path>,
    extents: &[(String, u64)],
) -> Result<Imported> {
    let format = |message: &str| ImportError::Format(message.to_owned());
    let model = proto::Model::decode(bytes);
    let model = model.map_err(|e| ImportError::Format(format!("not an ONNX model: {e}")))?;
    let graph = model.graph.as_ref();
    let graph = graph.ok_or_else(|| format("not an ONNX model: it has no graph"))?;
    if graph.node.len() > MAX_NODES {
        let count = graph.node.len();
        return Err(format(&format!(
            "{count} nodes; a graph of at most {MAX_NODES} is read"
        )));
    }
    let standard = |o: &&proto::OperatorSet| o.domain.is_empty() || o.domain == "ai.onnx";
    let opset = model
        .opset_import
        .iter()
        .find(standard)
        .map_or(1, |o| o.version);
    let mut context = Context::new(name, opset);
    declare(graph, &mut context);
    initialisers(graph, dir, &mut context)?;
    inputs(graph, model.ir_version, extents, &mut context)?;
    let order = order(graph, &context)?;
    let mut folded = BTreeMap::new();
    for at in order {
        let node = &graph.node[at];
        context.place = place(at, node);
        context.builder.at(&context.place);
        let before = context.builder.nodes();
        translate(node, &mut context)?;
        if context.builder.nodes() == before && node.op_type != "Constant" {
            *folded.entry(node.op_type.clone()).or_default() += 1;
        }
    }
    outputs(graph, &mut context)?;
    Ok(Imported {
        graph: context.builder.finish()?,
        nodes: graph.node.len(),
        folded,
    })
}

/// A node in messages.
fn place(at: usize, node: &proto::Node) -> String {
    let domain = match node.domain.as_str() {
        "" | "ai.onnx" => String::new(),
        domain => format!("{domain}."),
    };
    let name = match node.name.as_str() {
        "" => String::new(),
        name => format!(" `{name}`"),
    };
    format!("node {at}{name} ({domain}{})", node.op_type)
}

/// Shapes that the model states in full.
fn declare(graph: &proto::Graph, context: &mut Context) {
    for info in graph.output.iter().chain(&graph.value_info) {
        let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let Some(shape) = tensor.and_then(|t| t.shape.as_ref()) else {
            continue;
        };
        let extent = |d: &proto::Dimension| d.dim_value.and_then(|d| u64::try_from(d).ok());
        let shape: Option<Vec<u64>> = shape.dim.iter().map(extent).collect();
        if let Some(shape) = shape {
            context.declared.insert(info.name.clone(), shape);
        }
    }
}

fn initialisers(graph: &proto::Graph, dir: Option<&Path>, context: &mut Context) -> Result<()> {
    for tensor in &graph.initializer {
        let stored = Stored::new(tensor, dir)?;
        let val = Val {
            elem: stored.elem,
            shape: stored.shape.clone(),
            place: Where::Stored(Rc::new(stored)),
        };
        if context.values.insert(tensor.name.clone(), val).is_some() {
            return Err(ImportError::Tensor {
                tensor: tensor.name.clone(),
                problem: "given twice".to_owned(),
            });
        }
    }
    Ok(())
}

/// Names of extents as flags write them.
fn plain(name: &str) -> String {
    name.trim().replace('-', "_")
}

fn inputs(
    graph: &proto::Graph,
    ir_version: i64,
    extents: &[(String, u64)],
    context: &mut Context,
) -> Result<()> {
    let mut used = vec![false; extents.len()];
    let mut open = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for info in &graph.input {
        if ir_version < 4 && context.values.contains_key(&info.name) {
            continue;
        }
        let fail = |problem: String| ImportError::Tensor {
            tensor: info.name.clone(),
            problem,
        };
        if !seen.insert(&info.name) {
            return Err(fail("an input given twice".to_owned()));
        }
        let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let tensor = tensor.ok_or_else(|| fail("an input that is no tensor".to_owned()))?;
        let elem = Elem::of(i64::from(tensor.elem_type)).map_err(fail)?;
        let dims = tensor.shape.as_ref();
        let dims = dims.ok_or_else(|| fail("an input of unknown rank".to_owned()))?;
        let mut shape = Vec::with_capacity(dims.dim.len());
        for (axis, dim) in dims.dim.iter().enumerate() {
            if let Some(value) = dim.dim_value.filter(|v| *v >= 0) {
                shape.push(value as u64);
                continue;
            }
            if let Some(value) = dim.dim_value.filter(|v| *v < -1) {
                return Err(fail(format!("an extent of {value} on axis {axis}")));
            }
            // An extent without a name goes by input and axis.
            let unnamed = format!("{}.{axis}", info.name);
            let name = dim.dim_param.as_deref().filter(|p| !p.is_empty());
            let names = [name, Some(unnamed.as_str())];
            let given = extents
                .iter()
                .position(|(given, _)| names.iter().flatten().any(|n| plain(n) == plain(given)));
            let name = name.unwrap_or(&unnamed).to_owned();
            open.push(plain(&name));
            let Some(at) = given else {
                return Err(ImportError::Dynamic {
                    input: info.name.clone(),
                    axis,
                    name,
                });
            };
            used[at] = true;
            shape.push(extents[at].1);
        }
        // What has no elements is not given to any run; its type and shape still count.
        let val = match shape.contains(&0) {
            true => Val::empty(elem, &shape),
            false => {
                let id = context.builder.input(&info.name, elem.dtype(), &shape)?;
                context.val(id, elem)
            }
        };
        context.values.insert(info.name.clone(), val);
    }
    if let Some(at) = used.iter().position(|used| !used) {
        open.dedup();
        let known = match open.is_empty() {
            true => "the model leaves no extent open".to_owned(),
            false => format!("the model leaves open {}", open.join(", ")),
        };
        return Err(ImportError::Shape {
            name: extents[at].0.clone(),
            message: known,
        });
    }
    Ok(())
}

/// Nodes in an order in which each follows those that it needs; the file's own where that is one.
fn order(graph: &proto::Graph, context: &Context) -> Result<Vec<usize>> {
    let mut maker: HashMap<&str, usize> = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if context.values.contains_key(name) || maker.insert(name, at).is_some() {
                return Err(ImportError::Tensor {
                    tensor: name.clone(),
                    problem: format!("made twice, the second time by {}", place(at, node)),
                });
            }
        }
    }
    // 0: not seen, 1: on the path to the current node, 2: done. Paths are explicit: a chain may be long.
    let mut state = vec![0u8; graph.node.len()];
    let mut order = Vec::with_capacity(graph.node.len());
    for root in 0..graph.node.len() {
        let mut path = vec![(root, 0)];
        while let Some((at, input)) = path.pop() {
            if state[at] == 2 {
                continue;
            }
            state[at] = 1;
            let node = &graph.node[at];
            let Some(name) = node.input.get(input) else {
                state[at] = 2;
                order.push(at);
                continue;
            };
            path.push((at, input + 1));
            if name.is_empty() || context.values.contains_key(name) {
                continue;
            }
            match maker.get(name.as_str()) {
                None => {
                    return Err(ImportError::Missing {
                        place: place(at, node),
                        value: name.clone(),
                    });
                }
                Some(from) if state[*from] == 1 => {
                    return Err(ImportError::Cycle {
                        place: place(at, node),
                        value: name.clone(),
                    });
                }
                Some(from) => path.push((*from, 0)),
            }
        }
    }
    Ok(order)
}

fn translate(node: &proto::Node, context: &mut Context) -> Result<()> {
    if !matches!(node.domain.as_str(), "" | "ai.onnx" | "com.microsoft") {
        return context.unsupported(format!("the domain `{}` is not supported", node.domain));
    }
    let mut inputs = Vec::with_capacity(node.input.len());
    for name in &node.input {
        let val = context.values.get(name).cloned();
        if val.is_none() && !name.is_empty() {
            return Err(ImportError::Missing {
                place: context.place.clone(),
                value: name.clone(),
            });
        }
        inputs.push(val);
    }
    let call = Call { node, inputs };
    let coded = call.inputs.iter().flatten().any(|val| val.elem.is_coded());
    let foreign = node.domain == "com.microsoft"
        && matches!(node.op_type.as_str(), "Attention" | "RotaryEmbedding");
    let mut results = None;
    for module in [
        movement::translate,
        elementwise::translate,
        rows::translate,
        products::translate,
        quantise::translate,
    ] {
        if results.is_none() && !foreign {
            results = module(&call, context)?;
        }
    }
    if coded && results.is_some() && !takes_codes(&node.op_type) {
        return context.unsupported(format!(
            "the operation {} on a float8 format called fnuz: cast it first",
            node.op_type
        ));
    }
    let Some(results) = results else {
        return context.unsupported(format!("the operation {} is not supported", node.op_type));
    };
    for (at, name) in node.output.iter().enumerate() {
        if name.is_empty() {
            continue;
        }
        let Some(val) = results.get(at) else {
            return context.unsupported(format!("result {at} is not supported"));
        };
        match &val.place {
            Where::Chip(id) => context.builder.name(*id, name),
            Where::Host(numbers) => context.folded = context.folded.saturating_add(numbers.count()),
            Where::Stored(_) => {}
        }
        if context.folded > MAX_FOLDED {
            return context.unsupported(format!(
                "with this one, values that are known before a run have over {MAX_FOLDED} elements"
            ));
        }
        context.values.insert(name.clone(), val.clone());
    }
    Ok(())
}

/// Whether an operation moves elements, or converts them itself: all others would take codes for integers.
fn takes_codes(op: &str) -> bool {
    matches!(
        op,
        "Cast"
            | "CastLike"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "Concat"
            | "Expand"
            | "Flatten"
            | "Gather"
            | "Identity"
            | "Reshape"
            | "Shape"
            | "Size"
            | "Slice"
            | "Split"
            | "Squeeze"
            | "Tile"
            | "Transpose"
            | "Unsqueeze"
    )
}

fn outputs(graph: &proto::Graph, context: &mut Context) -> Result<()> {
    if graph.output.is_empty() {
        return Err(ImportError::Format("the graph has no outputs".to_owned()));
    }
    for info in &graph.output {
        context.place = format!("output `{}`", info.name);
        context.builder.at(&context.place);
        let Some(val) = context.values.get(&info.name).cloned() else {
            return Err(ImportError::Missing {
                place: context.place.clone(),
                value: info.name.clone(),
            });
        };
        let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
        let stated = tensor.and_then(|t| Elem::of(i64::from(t.elem_type)).ok());
        if let Some(stated) = stated.filter(|e| e.dtype() != val.elem.dtype()) {
            return context.unsupported(format!("stated as {stated:?}, made as {:?}", val.elem));
        }
        let id = context.chip(&val)?;
        context.builder.output(id, &info.name)?;
    }
    Ok(())
}
