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

use super::progress::Progress;
use super::{CliError, Context};
use crate::chip::Chip;
use crate::compiler::{
    Attention, CompileError, Compiled, Matmul, MatmulType, Op, OpError, compile_kept,
    op::MAX_EXTENT, parse_attention_dtype,
};
use std::io::Read;
use std::path::Path;
use std::time::Instant;
use toml::de::{DeTable, DeValue};

/// No graph comes near this; it bounds memory when the path is something else.
const FILE_LIMIT: u64 = 1 << 20;

const MATMUL: &[&str] = &["m", "n", "k"];
const ATTENTION: &[&str] = &["batch", "heads", "kv_heads", "head_dim", "q_len", "kv_len"];

/// An operation from a file, with the lines to blame.
#[derive(Debug)]
pub struct Model {
    /// With the flags of the command line applied.
    pub op: Op,
    place: Place,
}

/// Where the keys of an operation stand.
#[derive(Debug)]
struct Place {
    file: String,
    /// Line of the operation.
    line: usize,
    /// Key and line; none if a flag gave the value.
    keys: Vec<(String, Option<usize>)>,
}

impl Place {
    fn fail(&self, line: usize, message: impl std::fmt::Display) -> CliError {
        CliError::file(format!("{}:{line}", self.file), message.to_string())
    }

    /// Blames a value of this key: the flag or the line that gave it; the whole operation if there is no key.
    fn blame(&self, key: Option<&str>, message: impl std::fmt::Display) -> CliError {
        let given = key.and_then(|key| self.keys.iter().rev().find(|(name, _)| name == key));
        match given {
            Some((key, None)) if key == "dtype" => CliError::usage(format!("--dtype: {message}")),
            Some((key, None)) => CliError::usage(format!("--shape {key}: {message}")),
            Some((key, Some(line))) => self.fail(*line, format!("{key}: {message}")),
            None => self.fail(self.line, message),
        }
    }

    fn blame_op(&self, error: &OpError) -> CliError {
        let key = match error {
            OpError::Extent { name, .. } => Some(name.replace('-', "_")),
            OpError::Heads { .. } => Some("heads".to_owned()),
            OpError::Dtype { .. } => Some("dtype".to_owned()),
            OpError::Blocks { .. } => Some("k".to_owned()),
            OpError::ValueDim { .. } => Some("value_dim".to_owned()),
            OpError::Hbm { .. } | OpError::Stream { .. } | OpError::Rowwise(_) => None,
        };
        self.blame(key.as_deref(), error)
    }
}

/// `NAME=N` of `--shape`.
pub fn extent(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text
        .split_once('=')
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, _)| !name.is_empty())
        .ok_or("expected NAME=N, such as kv_len=8192")?;
    match count(value)? {
        0 => Err(format!("{name} is 0; it must be 1 to {MAX_EXTENT}")),
        value => Ok((name.replace('-', "_"), value)),
    }
}

/// A number of elements; what is too large or 0 is told apart later, with its name.
pub fn count(text: &str) -> Result<u64, String> {
    match text.parse::<i128>() {
        Ok(n) => u64::try_from(n).map_err(|_| format!("it must be 1 to {MAX_EXTENT}")),
        Err(_) => Err(format!("expected a whole number, 1 to {MAX_EXTENT}")),
    }
}

fn text_of(path: &Path) -> Result<String, CliError> {
    let place = path.display().to_string();
    const TAKES: &str = "`compile` takes an .onnx file, a Hugging Face directory (one with a config.json), or a .toml graph of one operation";
    if path.is_dir() {
        let message = format!("{place}: no config.json in this directory; {TAKES}");
        return Err(CliError::usage(message));
    }
    let end = path.extension().unwrap_or_default();
    if end != "toml" {
        let other = match end.to_str() {
            Some("s") => "; `asm` takes assembly text, `run` assembles and runs it",
            Some("elf") => "; it is compiled already: `run` takes it",
            Some("safetensors") => "; the directory of this file is the model",
            _ => "",
        };
        return Err(CliError::usage(format!("{place}: {TAKES}{other}")));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(FILE_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|e| CliError::io("read", path, &e))?;
    if bytes.len() as u64 > FILE_LIMIT {
        let message = format!("larger than {FILE_LIMIT} bytes");
        return Err(CliError::file(place, message));
    }
    String::from_utf8(bytes).map_err(|e| CliError::file(place, e.to_string()))
}

/// The operation of a graph file, with extents and element type of the command line in place of its own.
pub fn read(path: &Path, shape: &[(String, u64)], dtype: Option<&str>) -> Result<Model, CliError> {
    let text = text_of(path)?;
    let line = |at: usize| 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
    let mut place = Place {
        file: path.display().to_string(),
        line: 1,
        keys: Vec::new(),
    };
    let root = DeTable::parse(&text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        place.fail(
            line(at),
            format!("not TOML: {}", e.message().replace('\n', ", ")),
        )
    })?;
    if let Some(key) = root.get_ref().keys().find(|k| k.get_ref() != "op") {
        let message = format!("{}: unknown key; a graph holds [[op]]", key.get_ref());
        return Err(place.fail(line(key.span().start), message));
    }
    let Some((key, ops)) = root.get_ref().get_key_value("op") else {
        return Err(place.fail(1, "no [[op]]: a graph of one operation is compiled"));
    };
    let ops = match ops.get_ref() {
        DeValue::Array(ops) => ops,
        other => {
            let message = format!("op: must be an array of tables, found {}", other.type_str());
            return Err(place.fail(line(key.span().start), message));
        }
    };
    let [op] = &ops[..] else {
        let message = format!("op: {} operations; a graph of one is compiled", ops.len());
        return Err(place.fail(line(key.span().start), message));
    };
    place.line = line(op.span().start);
    let DeValue::Table(table) = op.get_ref() else {
        return Err(place.fail(place.line, "op: must be a table"));
    };
    let mut node = Node::default();
    for (key, value) in table.iter() {
        let name = key.get_ref().as_ref();
        let at = line(key.span().start);
        place.keys.push((name.to_owned(), Some(at)));
        let refused = node.set(name, value.get_ref());
        refused.map_err(|message| place.fail(at, format!("{name}: {message}")))?;
    }
    let names = match node.kind.as_deref() {
        Some("matmul") => MATMUL,
        Some("attention") => ATTENTION,
        Some(other) => {
            let message = format!("`{other}` is not one of matmul, attention");
            return Err(place.blame(Some("kind"), message));
        }
        None => return Err(place.blame(None, "kind: missing; it is matmul or attention")),
    };
    let known = |key: &str| {
        let causal = key == "causal" && names == ATTENTION;
        causal || names.contains(&key) || ["kind", "dtype"].contains(&key)
    };
    if let Some((key, Some(line))) = place.keys.iter().find(|(key, _)| !known(key)) {
        let message = format!("`{key}`: unknown key; it has {}", names.join(", "));
        return Err(place.fail(*line, message));
    }
    for (name, value) in shape {
        if !names.contains(&name.as_str()) {
            let message = format!("--shape {name}: the operation has {}", names.join(", "));
            return Err(CliError::usage(message));
        }
        node.extents.push((name.clone(), *value));
        place.keys.push((name.clone(), None));
    }
    if let Some(name) = dtype {
        node.dtype = Some(name.to_owned());
        place.keys.push(("dtype".to_owned(), None));
    }
    let op = node.op(names == MATMUL, &place)?;
    Ok(Model { op, place })
}

/// The values of an operation; later ones hold.
#[derive(Default)]
struct Node {
    kind: Option<String>,
    dtype: Option<String>,
    causal: bool,
    extents: Vec<(String, u64)>,
}

impl Node {
    /// Takes a value of a file, or says what it should have been.
    fn set(&mut self, name: &str, value: &DeValue<'_>) -> Result<(), String> {
        match (name, value) {
            ("kind", DeValue::String(text)) => self.kind = Some(text.to_string()),
            ("dtype", DeValue::String(text)) => self.dtype = Some(text.to_string()),
            ("causal", DeValue::Boolean(causal)) => self.causal = *causal,
            ("kind" | "dtype", other) => {
                return Err(format!("must be a string, found {}", other.type_str()));
            }
            ("causal", other) => {
                return Err(format!("must be true or false, found {}", other.type_str()));
            }
            (_, DeValue::Integer(n)) => {
                let value = u64::from_str_radix(n.as_str(), n.radix());
                let value = value
                    .map_err(|_| format!("is {}; it must be 1 to {MAX_EXTENT}", n.as_str()))?;
                self.extents.push((name.to_owned(), value));
            }
            // An unknown key is told apart from a wrong value by the caller, who knows the names.
            (name, _) if !MATMUL.contains(&name) && !ATTENTION.contains(&name) => {}
            (_, other) => {
                return Err(format!(
                    "must be a whole number, found {}",
                    other.type_str()
                ));
            }
        }
        Ok(())
    }

    fn op(&self, matmul: bool, place: &Place) -> Result<Op, CliError> {
        let get = |name: &str| {
            let found = self.extents.iter().rev().find(|(key, _)| key == name);
            let found = found.map(|(_, value)| *value);
            found.ok_or_else(|| place.blame(None, format!("{name}: missing")))
        };
        let Some(dtype) = &self.dtype else {
            return Err(place.blame(None, "dtype: missing"));
        };
        Ok(match matmul {
            true => Op::Matmul(Matmul::new(
                get("m")?,
                get("n")?,
                get("k")?,
                MatmulType::parse(dtype).map_err(|e| place.blame_op(&e))?,
            )),
            false => Op::Attention(Attention {
                batch: get("batch")?,
                heads: get("heads")?,
                kv_heads: get("kv_heads")?,
                head_dim: get("head_dim")?,
                q_len: get("q_len")?,
                kv_len: get("kv_len")?,
                causal: self.causal,
                dtype: parse_attention_dtype(dtype).map_err(|e| place.blame_op(&e))?,
                form: Default::default(),
            }),
        })
    }
}

/// A wrong operation on the command line.
pub fn usage(error: OpError) -> CliError {
    CliError::usage(error.to_string())
}

/// What may help where there is no plan.
pub fn advice(reason: &str) -> &'static str {
    let about = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if about(&["SRAM", "the tile has", " fit "]) {
        "; smaller extents or a narrower --dtype take less, --set tsram.size=16MiB is a tile with more"
    } else if about(&["semaphores"]) {
        "; --set semaphores.count=64 is a tile with more"
    } else if about(&["DMA channels"]) {
        "; --set dma.channels=4 is a tile with more"
    } else {
        ""
    }
}

/// An operation that does not compile, as the fault of its file or of the command line.
pub fn refused(error: &CompileError, model: Option<&Model>) -> CliError {
    match (error, model) {
        (CompileError::Op(op), Some(model)) => model.place.blame_op(op),
        (CompileError::NoPlan { reason, .. }, Some(model)) => {
            // A reason that begins with an extent is about that value, any other about the chip.
            let word = reason
                .split(' ')
                .next()
                .unwrap_or_default()
                .replace('-', "_");
            match model.place.keys.iter().any(|(key, _)| *key == word) {
                true => model.place.blame(Some(&word), reason),
                false => CliError::usage(format!("{error}{}", advice(reason))),
            }
        }
        (CompileError::NoPlan { reason, .. }, None) => {
            CliError::usage(format!("{error}{}", advice(reason)))
        }
        (CompileError::Assembly { .. }, _) => CliError::Run {
            code: "compiler",
            exit: 1,
            place: None,
            message: error.to_string(),
            detail: None,
        },
        _ => CliError::usage(error.to_string()),
    }
}

/// Compiles, and tells how long it took on the host. `model`: the file to blame for a wrong operation, if it is from one.
pub fn compiled(
    op: &Op,
    chip: &Chip,
    model: Option<&Model>,
    context: &Context,
) -> Result<(Compiled, f64), CliError> {
    let _progress = Progress::start("compiling", context);
    let start = Instant::now();
    let compiled = compile_kept(op, chip, &context.cache);
    let compiled = compiled.map_err(|error| refused(&error, model))?;
    context.note_cache();
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
    fn model(text: &str, shape: &[(String, u64)], dtype: Option<&str>) -> Result<Op, CliError> {
        let name = format!(
            "tw-model-{}-{:?}.toml",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let model = read(&path, shape, dtype);
        std::fs::remove_file(&path).unwrap();
        model.map(|m| m.op)
    }

    const GRAPH: &str = "[[op]]\nkind = \"matmul\"\nm = 2\nn = 3\nk = 4\ndtype = \"bf16\"\n";

    #[test]
    fn flags_override_the_file() {
        let want = |k, dtype| Op::Matmul(Matmul::new(2, 3, k, dtype));
        assert_eq!(model(GRAPH, &[], None).unwrap(), want(4, MatmulType::Bf16));
        let shape = [extent("k=9").unwrap()];
        assert_eq!(
            model(GRAPH, &shape, Some("fp8")).unwrap(),
            want(9, MatmulType::Fp8)
        );
    }

    #[test]
    fn bad_graphs_and_flags_say_whose_fault_it_is() {
        for (text, shape, dtype, exit, word) in [
            (
                "[[op]]\nkind = \"conv\"\n",
                &[][..],
                None,
                3,
                ".toml:2: kind: `conv`",
            ),
            ("op = 3", &[], None, 3, ".toml:1: op"),
            ("\n\nnonsense", &[], None, 3, ".toml:3: not TOML"),
            (
                &GRAPH.replace("m = 2", "m = -2"),
                &[],
                None,
                3,
                ".toml:3: m: is -2",
            ),
            (
                &GRAPH.replace("m = 2", "q = 2"),
                &[],
                None,
                3,
                ".toml:3: `q`",
            ),
            (
                &GRAPH.replace("bf16", "int3"),
                &[],
                None,
                3,
                ".toml:6: dtype",
            ),
            (&GRAPH.repeat(2), &[], None, 3, "2 operations"),
            ("", &[], None, 3, "op"),
            (&GRAPH.replace("k = 4\n", ""), &[], None, 3, "k: missing"),
            (
                &GRAPH.replace("m = 2", "m = \"x\""),
                &[],
                None,
                3,
                ".toml:3: m: must be",
            ),
            (GRAPH, &[("q_len".to_owned(), 1)], None, 2, "m, n, k"),
            (GRAPH, &[], Some("int3"), 2, "int3"),
        ] {
            let error = model(text, shape, dtype).unwrap_err();
            assert_eq!(error.exit_code(), exit, "{error}");
            assert!(error.to_string().contains(word), "{error} for {word}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert!(extent("k=0").is_err() && extent("k=-1").is_err());
        assert!(extent("k=x").is_err() && extent("=3").is_err() && extent("k").is_err());
        assert_eq!(extent("kv-len=3"), Ok(("kv_len".into(), 3)));
    }
}
