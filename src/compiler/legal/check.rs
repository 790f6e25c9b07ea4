//! Whether a graph is in the forms of [`super`]'s page: what lowerings may rely on.
//!
//! Models: the table of forms, node by node. Leaves out: whether sizes suit a chip. Invariant: a graph that passes has no node outside
//! the table.

use super::LegalError;
use crate::compiler::attention::form::known;
use crate::compiler::graph::{Attention, Graph, Grouped, Kind, Matmul, Op, Value};
use crate::num::Dtype;

/// Checks every node.
///
/// # Errors
/// The first node in another form.
pub fn check(graph: &Graph) -> Result<(), LegalError> {
    for node in &graph.nodes {
        let operands: Vec<&Value> = graph.list(&node.inputs).collect();
        let wrong = match &node.op {
            Op::Matmul(op) => matmul(op, &operands),
            Op::Attention(op) => attention(op, &operands),
            Op::Grouped(op) => grouped(op, &operands),
            Op::Epilogue(_) => {
                let sums = Matmul {
                    dtype: Dtype::F32,
                    blocks: None,
                };
                matmul(&sums, &operands[..2])
            }
            _ => None,
        };
        if let Some(what) = wrong {
            return Err(LegalError::form(&node.place, what));
        }
    }
    Ok(())
}

fn matmul(op: &Matmul, operands: &[&Value]) -> Option<String> {
    let (a, b) = (operands[0], operands[1]);
    let types = match operands.get(2) {
        None => a.dtype == b.dtype && matches!(a.dtype, Dtype::Bf16 | Dtype::E4m3 | Dtype::E5m2),
        Some(scales) => {
            let k = b.shape[0];
            let pairs = [
                (32, Some(Dtype::E4m3), Dtype::E4m3),
                (32, Some(Dtype::E5m2), Dtype::E5m2),
                (32, Some(Dtype::E2m3), Dtype::E2m3),
                (32, Some(Dtype::E3m2), Dtype::E3m2),
                (32, Some(Dtype::E2m1), Dtype::E2m1),
                (32, Some(Dtype::E4m3), Dtype::E2m1),
                (16, Some(Dtype::E2m1), Dtype::E2m1),
                (32, None, Dtype::E2m1),
            ];
            let rows = match op.blocks {
                Some(_) => matches!(a.dtype, Dtype::Bf16 | Dtype::F16 | Dtype::F32),
                None => a.dtype == Dtype::E4m3,
            };
            let bits = b.shape[1] * u64::from(b.dtype.bits());
            rows && bits.is_multiple_of(8)
                && k.is_multiple_of(32)
                && pairs.contains(&(Matmul::block(k, scales), op.blocks, b.dtype))
                && matches!(b.kind, Kind::Constant(_))
                && matches!(scales.kind, Kind::Constant(_))
        }
    };
    let shapes = match (&a.shape[..], &b.shape[..]) {
        ([_, _], [_, _]) => true,
        ([x, ..], [y, ..]) => a.shape.len() == 3 && b.shape.len() == 3 && x.max(y) > &1,
        _ => false,
    };
    let result = matches!(op.dtype, Dtype::Bf16 | Dtype::F32);
    let fine = types && shapes && result;
    (!fine).then(|| format!("a product of {a} and {b} in {} has no lowering", op.dtype))
}

fn grouped(op: &Grouped, operands: &[&Value]) -> Option<String> {
    let (x, w) = (operands[0], operands[2]);
    let wide = |t: Dtype| matches!(t, Dtype::Bf16 | Dtype::F16 | Dtype::F32);
    let narrow = |t: Dtype| matches!(t, Dtype::E4m3 | Dtype::E5m2);
    let types = match operands.get(3) {
        Some(scales) => {
            (narrow(w.dtype) || w.dtype == Dtype::E2m1)
                && (wide(x.dtype) || narrow(x.dtype))
                && scales.shape[1] * 32 == w.shape[1]
        }
        None => x.dtype == w.dtype && (x.dtype == Dtype::Bf16 || narrow(x.dtype)),
    };
    let fine = types && wide(op.dtype) && matches!(w.kind, Kind::Constant(_));
    (!fine).then(|| {
        format!(
            "a product of {x} and the experts {w} in {} has no lowering",
            op.dtype
        )
    })
}

fn attention(op: &Attention, operands: &[&Value]) -> Option<String> {
    let [q, k, v, ..] = operands else {
        return Some("attention takes Q, K and V".to_owned());
    };
    let types = [q, k, v].iter().all(|x| x.dtype == q.dtype)
        && matches!(q.dtype, Dtype::Bf16 | Dtype::E4m3)
        && op.dtype == Dtype::Bf16
        && (!op.sinks || operands.get(3).is_some_and(|z| z.dtype == Dtype::F32));
    let dims = [q, v].iter().all(|x| x.shape[3].is_multiple_of(32));
    let form = known(op, [q, k, v].map(|x| &x.shape[..]), q.dtype, false);
    let fine = types && dims && form.is_ok();
    (!fine).then(|| format!("attention of {q}, {k} and {v} has no lowering"))
}
