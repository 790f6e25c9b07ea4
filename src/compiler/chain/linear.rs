//! Which products are layers of the stream of weights, and how their sums reach those who want them.
//!
//! Models: products of few rows with constants ([`crate::compiler::linear`]). A layer that sums K in several parts leaves them side by
//! side in FP32 in a value of its own; row-wise programs that read the product read all parts and add them in ascending order, so that the
//! sum costs no stage; if anyone else reads it, a step of additions makes it. Leaves out: schedules. Invariant: what is added is rounded to
//! the product's type before it is used.

use super::parts::Parts;
use super::steps::{Read, Step, Work, product};
use crate::chip::Chip;
use crate::compiler::graph::{Data, Graph, Kind, Op as NodeOp, Value, ValueId};
use crate::compiler::linear::{Linear, MAX_ROWS, Stream};
use crate::compiler::rowwise::{self, Binary, Input, Output, Rowwise, Spread, StepId, Unary};
use crate::compiler::{Matmul, Op};
use crate::num::Dtype;
use std::collections::BTreeMap;

/// A product that streams its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub node: usize,
    pub op: Matmul,
    pub weights: ValueId,
    /// Of its blocks.
    pub scales: Option<ValueId>,
    /// The parts of K.
    pub parts: u64,
    /// Where it leaves them; the product itself if there is one.
    pub sums: ValueId,
    /// Whether all who read the product add the parts themselves.
    pub direct: bool,
}

/// The layers of a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layers {
    pub all: Vec<Layer>,
    pub stream: Option<Stream>,
    /// Bytes of the values beside those of the graph: `sums`, with ids behind the graph's.
    pub beside: Vec<u64>,
    /// The layer of each product whose readers add its parts.
    direct: BTreeMap<ValueId, usize>,
}

impl Layers {
    /// Finds the layers and plans their stream for a ring of `ring` bytes; none if a chip has no room for it.
    pub fn of(graph: &Graph, parts: &Parts, chip: &Chip, ring: u64) -> Layers {
        let candidates: Vec<(usize, Matmul)> = (graph.nodes.iter().enumerate())
            .filter_map(|(n, node)| {
                let NodeOp::Matmul(op) = &node.op else {
                    return None;
                };
                let operands: Vec<&Value> = graph.list(&node.inputs).collect();
                let op = product(op, &operands, &graph[node.outputs[0]]).ok()?;
                let constant = |v: &&Value| matches!(v.kind, Kind::Constant(_));
                let constant = operands[1..].iter().all(constant);
                (constant && op.m <= MAX_ROWS && linear(&op).problem().is_none()).then_some((n, op))
            })
            .collect();
        // Operand and sums must fit beside the ring. Layers of a model repeat.
        let mut fits: BTreeMap<String, bool> = BTreeMap::new();
        let candidates: Vec<(usize, Matmul)> = candidates
            .into_iter()
            .filter(|(_, op)| {
                let alone = || {
                    Stream::new(&[linear(op)], chip, ring, 0).is_ok_and(|stream| {
                        stream.beside(0) <= stream.rest(chip).chip.tsram.size_bytes / 2
                    })
                };
                *fits.entry(format!("{op:?}")).or_insert_with(alone)
            })
            .collect();
        let linears: Vec<Linear> = candidates.iter().map(|(_, op)| linear(op)).collect();
        if linears.is_empty() {
            return Layers::default();
        }
        // A chip too small for a ring runs products one by one.
        let Ok(stream) = Stream::new(&linears, chip, ring, 0) else {
            return Layers::default();
        };
        let products = candidates.iter().map(|(n, _)| graph.nodes[*n].outputs[0]);
        let parts_of: BTreeMap<ValueId, u64> = products
            .zip(&stream.layers)
            .map(|(id, packing)| (id, packing.parts))
            .collect();
        let readers = readers(graph, parts);
        let mut layers = Layers::default();
        for ((node, op), packing) in candidates.into_iter().zip(&stream.layers) {
            let product = graph.nodes[node].outputs[0];
            let sums = match packing.parts {
                1 => product,
                _ => {
                    layers.beside.push(packing.output_bytes());
                    ValueId((graph.values.len() + layers.beside.len() - 1) as u32)
                }
            };
            layers.all.push(Layer {
                node,
                op,
                weights: graph.nodes[node].inputs[1],
                scales: graph.nodes[node].inputs.get(2).copied(),
                parts: packing.parts,
                sums,
                direct: packing.parts > 1 && {
                    let readers = readers.get(&product).map_or(&[][..], Vec::as_slice);
                    adds(graph, parts, product, readers, &parts_of)
                },
            });
            if layers.all.last().is_some_and(|l| l.direct) {
                layers.direct.insert(product, layers.all.len() - 1);
            }
        }
        layers.stream = Some(stream);
        layers
    }

    /// The layer of a node.
    pub fn of_node(&self, node: usize) -> Option<usize> {
        self.all.binary_search_by_key(&node, |l| l.node).ok()
    }

    /// The steps of a layer: the product, and the additions if nobody else makes them.
    pub fn steps(&self, graph: &Graph, layer: usize, node: usize) -> Vec<Step> {
        let l = &self.all[layer];
        let product = graph.nodes[node].outputs[0];
        let mut steps = vec![Step {
            node,
            work: Work::Layer { layer, op: l.op },
            reads: vec![Read {
                value: graph.nodes[node].inputs[0],
                plus: 0,
            }],
            writes: vec![l.sums],
        }];
        if l.parts > 1 && !l.direct {
            let mut sum = Rowwise::new(l.op.m, l.op.n);
            let x = sum.input("sum", Dtype::F32, Spread::Full);
            sum.output("product", l.op.out, x, Spread::Full);
            let (program, reads) = split(
                &sum,
                &[(0, l, 0, Dtype::F32)],
                &[Read {
                    value: l.sums,
                    plus: 0,
                }],
            );
            steps.push(Step {
                node,
                work: Work::Op(Op::Rowwise(program)),
                reads,
                writes: vec![product],
            });
        }
        steps
    }

    /// A row-wise program with the parts of sums in place of products, and what it then reads.
    pub fn summed(
        &self,
        graph: &Graph,
        parts: &Parts,
        program: &Rowwise,
        inputs: &[ValueId],
    ) -> (Rowwise, Vec<Read>) {
        let plain: Vec<Read> = inputs
            .iter()
            .map(|id| Read {
                value: *id,
                plus: 0,
            })
            .collect();
        let mut sums = Vec::new();
        for (i, id) in inputs.iter().enumerate() {
            let part = parts.root(*id);
            if let Some(layer) = self.direct.get(&part.of) {
                let dtype = graph[part.of].dtype;
                // The first element, in FP32.
                let first = part.offset * 8 / u64::from(dtype.bits()) * 4;
                sums.push((i, &self.all[*layer], first, dtype));
            }
        }
        match sums.is_empty() {
            true => (program.clone(), plain),
            false => split(program, &sums, &plain),
        }
    }

    /// The bytes of a layer's weights in the stream.
    pub fn pack(
        &self,
        layer: usize,
        data: &Data,
        scales: Option<&Data>,
    ) -> Result<Vec<u8>, crate::compiler::graph::DataError> {
        let bytes = data.read()?;
        let scales = scales.map(Data::read).transpose()?;
        let stream = self.stream.as_ref().expect("a layer is one of a stream");
        Ok(stream.bytes(layer, &bytes, scales.as_deref().unwrap_or_default()))
    }
}

/// A product as a layer.
fn linear(op: &Matmul) -> Linear {
    let (a, weights) = op.dtype.operands();
    Linear {
        m: op.m,
        n: op.n,
        k: op.k,
        input: op.input.unwrap_or(a.dtype),
        weights,
        blocks: op.input.map(|_| a.dtype),
        output: op.out,
    }
}

/// The nodes that read each value with memory of its own, or what lies in it.
fn readers(graph: &Graph, parts: &Parts) -> BTreeMap<ValueId, Vec<usize>> {
    let mut all: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
    for (n, node) in graph.nodes.iter().enumerate() {
        for id in &node.inputs {
            all.entry(parts.root(*id).of).or_default().push(n);
        }
    }
    all
}

/// Whether all `readers` of a product are row-wise programs that can add its parts; `parts_of`: those of every product that has several.
fn adds(
    graph: &Graph,
    parts: &Parts,
    product: ValueId,
    readers: &[usize],
    parts_of: &BTreeMap<ValueId, u64>,
) -> bool {
    let passed_on = |id: ValueId| graph[id].kind == Kind::Intermediate;
    let root = |id: &ValueId| parts.root(*id).of;
    // What lies in a concatenation is wanted there.
    passed_on(product)
        && !parts.is_part(product)
        && readers.iter().all(|n| {
            let node = &graph.nodes[*n];
            match &node.op {
                NodeOp::Layout(_) => {
                    let result = node.outputs[0];
                    parts.is_inside(result, node.inputs[0]) && passed_on(result)
                }
                NodeOp::Rowwise(program) => {
                    let mut here = program.inputs.iter().zip(&node.inputs);
                    let full = here
                        .clone()
                        .all(|(i, id)| root(id) != product || i.spread == Spread::Full);
                    let count = |id: &ValueId| parts_of.get(&root(id)).copied().unwrap_or(1);
                    let tensors: u64 = here.by_ref().map(|(_, id)| count(id)).sum();
                    full && tensors <= rowwise::MAX_TENSORS as u64
                }
                _ => false,
            }
        })
}

/// A program that reads the parts of sums in place of some of its inputs: (input, layer, first byte in each part, type of the product).
fn split(
    program: &Rowwise,
    sums: &[(usize, &Layer, u64, Dtype)],
    reads: &[Read],
) -> (Rowwise, Vec<Read>) {
    let mut made = Rowwise::new(program.rows, program.cols);
    let mut all = Vec::new();
    let mut places = Vec::new();
    for (i, input) in program.inputs.iter().enumerate() {
        let Some((_, layer, first, dtype)) = sums.iter().find(|s| s.0 == i) else {
            made.inputs.push(input.clone());
            all.push(reads[i]);
            places.push(made.step(rowwise::Step::Input(made.inputs.len() - 1)));
            continue;
        };
        let mut sum: Option<StepId> = None;
        for part in 0..layer.parts {
            made.inputs.push(Input {
                name: format!("{}_{part}", input.name),
                dtype: Dtype::F32,
                ..input.clone()
            });
            all.push(Read {
                value: layer.sums,
                plus: part * layer.op.m * layer.op.n * 4 + first,
            });
            let x = made.step(rowwise::Step::Input(made.inputs.len() - 1));
            sum = Some(match sum {
                Some(sum) => made.binary(Binary::Add, sum, x),
                None => x,
            });
        }
        let sum = sum.expect("a layer has parts");
        places.push(match dtype {
            Dtype::F32 => sum,
            narrow => made.unary(Unary::Cast(*narrow), sum),
        });
    }
    let mut moved: Vec<StepId> = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        let at = |id: StepId| moved[id.index()];
        let id = match *step {
            rowwise::Step::Input(i) => places[i],
            rowwise::Step::Const(c) => made.step(rowwise::Step::Const(c)),
            rowwise::Step::Unary(f, a) => made.unary(f, at(a)),
            rowwise::Step::Binary(f, a, b) => made.binary(f, at(a), at(b)),
            rowwise::Step::Ternary(f, a, b, c) => {
                let step = rowwise::Step::Ternary(f, at(a), at(b), at(c));
                made.step(step)
            }
            rowwise::Step::Reduce(f, a) => made.reduce(f, at(a)),
        };
        moved.push(id);
    }
    for output in &program.outputs {
        made.outputs.push(Output {
            step: moved[output.step.index()],
            ..output.clone()
        });
    }
    (made, all)
}
