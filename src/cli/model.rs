//! Operations as files: the `.toml` graphs of `compile`, and errors of compiling.
//!
//! A graph is a table of operations. This form holds one:
//!
//! ```toml
//! [[op]]
//! kind = "matmul"        # m, n, k; or "attention": batch, heads, kv_heads, head_dim, q_len, kv_len, causal
//! m = 1000
//! n = 777
//! k = 513
//! dtype = "bf16"
//! ```

use super::CliError;
use crate::chip::Chip;
use crate::compiler::{
    Attention, CompileError, Compiled, GraphError, Matmul, Op, compile, parse_dtype,
};
use serde::Deserialize;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

/// No graph comes near this; it bounds memory when the path is something else.
const FILE_LIMIT: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    op: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Node {
    Matmul {
        m: u64,
        n: u64,
        k: u64,
        dtype: String,
    },
    Attention {
        batch: u64,
        heads: u64,
        kv_heads: u64,
        head_dim: u64,
        q_len: u64,
        kv_len: u64,
        #[serde(default)]
        causal: bool,
        dtype: String,
    },
}

/// `NAME=N` of `--shape`.
pub fn extent(text: &str) -> Result<(String, u64), String> {
    let parts = text
        .split_once('=')
        .map(|(n, v)| (n.trim(), v.trim().parse()));
    match parts {
        Some((name, Ok(value))) if !name.is_empty() => Ok((name.replace('-', "_"), value)),
        _ => Err("expected NAME=N, such as kv_len=8192".to_owned()),
    }
}

/// The operation of a graph file, with extents and element type of the command line in place of its own.
pub fn read(path: &Path, shape: &[(String, u64)], dtype: Option<&str>) -> Result<Op, CliError> {
    let place = path.display().to_string();
    if path.extension().is_none_or(|e| e != "toml") {
        return Err(CliError::usage(format!(
            "{place}: a model is a .toml graph; other forms are not read"
        )));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(FILE_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|e| CliError::io("read", path, &e))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(CliError::file(
            place,
            format!("larger than {FILE_LIMIT} bytes"),
        ));
    }
    let text = String::from_utf8(bytes).map_err(|e| CliError::file(&*place, e.to_string()))?;
    let graph: Graph =
        toml::from_str(&text).map_err(|e| CliError::file(&*place, e.to_string().trim_end()))?;
    let count = graph.op.len();
    let Ok([mut node]) = <[Node; 1]>::try_from(graph.op) else {
        return Err(CliError::file(
            place,
            format!("{count} operations; a graph of one is compiled"),
        ));
    };
    for (name, value) in shape {
        *node.extent(name)? = *value;
    }
    if let Some(name) = dtype {
        parse_dtype(name).map_err(usage)?;
        *node.dtype() = name.to_owned();
    }
    node.op().map_err(|e| CliError::file(place, e.to_string()))
}

impl Node {
    fn dtype(&mut self) -> &mut String {
        match self {
            Node::Matmul { dtype, .. } | Node::Attention { dtype, .. } => dtype,
        }
    }

    fn extent(&mut self, name: &str) -> Result<&mut u64, CliError> {
        let (found, names) = match self {
            Node::Matmul { m, n, k, .. } => (
                [("m", m), ("n", n), ("k", k)]
                    .into_iter()
                    .find(|e| e.0 == name),
                "m, n, k",
            ),
            Node::Attention {
                batch,
                heads,
                kv_heads,
                head_dim,
                q_len,
                kv_len,
                ..
            } => (
                [
                    ("batch", batch),
                    ("heads", heads),
                    ("kv_heads", kv_heads),
                    ("head_dim", head_dim),
                    ("q_len", q_len),
                    ("kv_len", kv_len),
                ]
                .into_iter()
                .find(|e| e.0 == name),
                "batch, heads, kv_heads, head_dim, q_len, kv_len",
            ),
        };
        found
            .map(|(_, extent)| extent)
            .ok_or_else(|| CliError::usage(format!("--shape {name}: the operation has {names}")))
    }

    fn op(&self) -> Result<Op, GraphError> {
        Ok(match self {
            Node::Matmul { m, n, k, dtype } => Op::Matmul(Matmul {
                m: *m,
                n: *n,
                k: *k,
                dtype: parse_dtype(dtype)?,
            }),
            Node::Attention {
                batch,
                heads,
                kv_heads,
                head_dim,
                q_len,
                kv_len,
                causal,
                dtype,
            } => Op::Attention(Attention {
                batch: *batch,
                heads: *heads,
                kv_heads: *kv_heads,
                head_dim: *head_dim,
                q_len: *q_len,
                kv_len: *kv_len,
                causal: *causal,
                dtype: parse_dtype(dtype)?,
            }),
        })
    }
}

/// A wrong operation on the command line.
pub fn usage(error: GraphError) -> CliError {
    CliError::usage(error.to_string())
}

/// Compiles, and tells how long it took on the host. `place`: the file to blame for a wrong operation, if it is from one.
pub fn compiled(op: &Op, chip: &Chip, place: Option<&Path>) -> Result<(Compiled, f64), CliError> {
    let start = Instant::now();
    let compiled = compile(op, chip).map_err(|error| match (&error, place) {
        (CompileError::Graph(_), Some(path)) => {
            CliError::file(path.display().to_string(), error.to_string())
        }
        (CompileError::Assembly { .. }, _) => CliError::Run {
            code: "compiler",
            exit: 1,
            place: None,
            message: error.to_string(),
            detail: None,
        },
        _ => CliError::usage(error.to_string()),
    })?;
    Ok((compiled, start.elapsed().as_secs_f64()))
}

/// Writes a program: as text if the file is called `.s`, else as an object.
pub fn write(compiled: &Compiled, path: &Path) -> Result<(), CliError> {
    let bytes = match path.extension().is_some_and(|e| e == "s") {
        true => compiled.text.clone().into_bytes(),
        false => crate::asm::object::write(&compiled.image),
    };
    std::fs::write(path, bytes).map_err(|e| CliError::io("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::Dtype;

    fn model(text: &str, shape: &[(String, u64)], dtype: Option<&str>) -> Result<Op, CliError> {
        let name = format!(
            "tw-model-{}-{:?}.toml",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let op = read(&path, shape, dtype);
        std::fs::remove_file(&path).unwrap();
        op
    }

    const MATMUL: &str = "[[op]]\nkind = \"matmul\"\nm = 2\nn = 3\nk = 4\ndtype = \"bf16\"\n";

    #[test]
    fn flags_override_the_file() {
        let want = |k, dtype| {
            Op::Matmul(Matmul {
                m: 2,
                n: 3,
                k,
                dtype,
            })
        };
        assert_eq!(model(MATMUL, &[], None).unwrap(), want(4, Dtype::Bf16));
        let shape = [extent("k=9").unwrap()];
        assert_eq!(
            model(MATMUL, &shape, Some("fp8")).unwrap(),
            want(9, Dtype::E4m3)
        );
    }

    #[test]
    fn bad_graphs_and_flags_say_whose_fault_it_is() {
        for (text, shape, dtype, exit, word) in [
            ("[[op]]\nkind = \"conv\"\n", &[][..], None, 3, "conv"),
            ("op = 3", &[], None, 3, "line 1"),
            (&MATMUL.replace("m = 2", "m = -2"), &[], None, 3, "-2"),
            (&MATMUL.replace("m = 2", "q = 2"), &[], None, 3, "`q`"),
            (&MATMUL.replace("bf16", "int3"), &[], None, 3, "int3"),
            (&MATMUL.repeat(2), &[], None, 3, "2 operations"),
            ("", &[], None, 3, "op"),
            (MATMUL, &[("q_len".to_owned(), 1)], None, 2, "m, n, k"),
            (MATMUL, &[], Some("int3"), 2, "int3"),
        ] {
            let error = model(text, shape, dtype).unwrap_err();
            assert_eq!(error.exit_code(), exit, "{error}");
            assert!(error.to_string().contains(word), "{error} for {word}");
        }
        assert!(extent("k=x").is_err() && extent("=3").is_err() && extent("k").is_err());
        assert_eq!(extent("kv-len=3"), Ok(("kv_len".into(), 3)));
    }
}
