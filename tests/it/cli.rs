//! The command line as a user meets it: results, the JSON contract, and one clear error for every bad input.

mod bad_input;
mod cache;
mod hostile;
mod mem;
mod models;
mod results;
mod routing;
mod stream;
mod table;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory of one test, which goes away with it.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("tilewright-it-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    /// The path of a file in it, as an argument.
    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.join(name), content).unwrap();
        self.path(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // What is left behind is only litter.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewright"));
    command.args(args).stdin(Stdio::null());
    // Tests keep nothing where the user's programs are.
    command.env("TILEWRIGHT_CACHE_DIR", "");
    command
}

fn output(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs and expects this exit code; gives stdout and stderr. A panic is never the right answer.
fn exits(code: i32, args: &[&str]) -> (String, String) {
    let out = output(args);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    assert_eq!(
        out.status.code(),
        Some(code),
        "{args:?}\n{stdout}\n{stderr}"
    );
    (stdout, stderr)
}

/// Runs with `--json` and expects this exit code; gives the object.
fn json(code: i32, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.push("--json");
    let (stdout, _) = exits(code, &all);
    let value: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e}\n{stdout}"));
    assert_eq!(value["schema_version"], 1, "{args:?}");
    value
}

/// Runs bad input, as text and as JSON: the exit code, one error that contains every word, and its code.
fn refused(exit: i32, code: &str, words: &[&str], args: &[&str]) {
    let (stdout, stderr) = exits(exit, args);
    assert!(stdout.is_empty(), "{args:?}: {stdout}");
    let value = json(exit, args);
    let error = &value["error"];
    assert_eq!(error["code"], code, "{args:?}: {error}");
    assert!(error["message"].is_string() && error.get("where").is_some());
    let shown = format!("{} {}", error["where"], error["message"]);
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no `{word}` in {stderr}");
        assert!(shown.contains(word), "{args:?}: no `{word}` in {shown}");
    }
}

/// A `.npy` file of these float32 values.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let header = format!("{header:<117}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.bytes());
    out.extend(data);
    out
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The values behind the header of a float32 file.
fn read_floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]])) + 10;
    let header_text = text(&bytes[10..header]);
    assert!(header_text.contains("'descr': '<f4'"), "{header_text}");
    bytes[header..]
        .chunks_exact(4)
        .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
        .collect()
}
