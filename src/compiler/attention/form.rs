//! Attention of a graph as the kernels know it.

use crate::compiler::graph::{self, Graph, Node, Op, View};
use crate::compiler::{Attention, Form};
use crate::num::Dtype;

/// The operation on Q, K and V of these shapes and this type. `v_in_k`: V is the first elements of K's rows ([`v_in_k`](fn@v_in_k)).
///
/// # Errors
/// What the kernels do not do, in words.
pub fn known(
    op: &graph::Attention,
    [q, k, v]: [&[u64]; 3],
    dtype: Dtype,
    v_in_k: bool,
) -> Result<Attention, &'static str> {
    let ([batch, q_len, heads, head_dim], [_, kv_len, kv_heads, _], [.., value_dim]) = (q, k, v)
    else {
        return Err("attention takes four axes");
    };
    let ends = *kv_len as i64 - *q_len as i64;
    // One query at the end sees all keys, with a mask or without.
    let all = op.causal.is_some_and(|offset| offset >= *kv_len as i64 - 1);
    if op.softcap.is_some() || op.mask || op.lengths {
        return Err("attention with a mask, soft-cap or lengths has no kernel");
    }
    if op.causal.is_some_and(|offset| offset != ends) && !all {
        return Err("causal attention whose last query does not see the last key has no kernel");
    }
    let window = op.window.filter(|window| window < kv_len);
    if window.is_some() && op.causal != Some(ends) {
        return Err("a window that is not at the last key has no kernel");
    }
    let mut made = Attention {
        batch: *batch,
        heads: *heads,
        kv_heads: *kv_heads,
        head_dim: *head_dim,
        q_len: *q_len,
        kv_len: *kv_len,
        causal: op.causal.is_some() && !all || window.is_some(),
        dtype,
        form: Form {
            value_dim: (value_dim != head_dim).then_some(*value_dim),
            v_in_k,
            scale: None,
            window,
            sinks: op.sinks,
            page: None,
        },
    };
    // As near as two FP32 constants of the same meaning are.
    if (f64::from(op.scale) / made.scale() - 1.0).abs() >= 1e-6 {
        made.form.scale = Some(op.scale);
    }
    Ok(made)
}

/// Whether V of an attention is the first elements of each row of its K, by a view; `makers`: the node that makes each value.
pub fn v_in_k(graph: &Graph, makers: &[Option<usize>], node: &Node) -> bool {
    let [_, k, v, ..] = node.inputs[..] else {
        return false;
    };
    let [shape, rows] = [k, v].map(|id| &graph[id].shape);
    let (Some(last), Some(count)) = (shape.len().checked_sub(1), rows.last()) else {
        return false;
    };
    let view = View::slice(shape, last, 0, 1, *count);
    let maker = makers[v.0 as usize].map(|n| &graph.nodes[n]);
    maker.is_some_and(|n| n.inputs[..] == [k] && matches!(&n.op, Op::Layout(made) if *made == view))
}
