//! The shape of the source: arrows between layers, a page at the head of every module, files that can be read at a sitting.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each layer of `src` and the layers that it may use, besides itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("num", &[]),
    ("sim", &[]),
    ("isa", &["num"]),
    ("reference", &["isa", "compiler"]),
    ("asm", &["isa", "num"]),
    ("chip", &["isa", "num"]),
    ("machine", &["num", "isa", "chip", "sim"]),
    ("trace", &["isa", "sim"]),
    ("timing", &["machine", "chip", "sim", "trace", "isa", "num"]),
    ("compiler", &["isa", "asm", "chip", "num", "sim"]),
    ("report", &["trace", "chip", "asm", "isa", "num", "sim"]),
    (
        "testing",
        &[
            "num", "isa", "asm", "chip", "machine", "trace", "timing", "cli",
        ],
    ),
    (
        "cli",
        &[
            "num",
            "sim",
            "isa",
            "asm",
            "chip",
            "machine",
            "trace",
            "timing",
            "compiler",
            "report",
            "reference",
        ],
    ),
];

/// Lines that a file may have; tables of keys and instructions are data and live elsewhere.
const LINES: usize = 800;

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut out = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut out);
    out.sort();
    out
}

/// The layer of a file of `src`; `None` for the crate's root and the binary.
fn layer(path: &Path) -> Option<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let inside = path.strip_prefix(src).unwrap();
    let first = inside.components().next()?.as_os_str().to_str()?;
    match first {
        "lib.rs" | "main.rs" => None,
        file => Some(file.trim_end_matches(".rs").to_owned()),
    }
}

/// Layers that a source mentions as `crate::layer` or `crate::{layer, ..}`, comments and text after them left out.
fn used(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let word = |s: &str| -> String {
        s.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut out = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => {
                out.insert(word(rest));
            }
            Some(group) => {
                // Names at the first level of the braces.
                let mut depth = 0;
                let mut start = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            out.insert(word(&group[i..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    // Macros and visibility (`pub(in crate::x)`) name modules of the same layer only.
    out.remove("");
    out
}

#[test]
fn mentions_are_found() {
    let text = "use crate::num::Dtype; // crate::cli\nuse crate::{isa::{Inst, text}, chip::Chip};\nx(crate::sim::Ps)";
    let want = ["chip", "isa", "num", "sim"].map(String::from);
    assert_eq!(used(text), BTreeSet::from(want));
}

#[test]
fn layers_use_only_what_is_below_them() {
    let layers: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for path in all_sources() {
        let Some(own) = layer(&path) else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == own) else {
            wrong.push(format!("{}: layer `{own}` has no row", path.display()));
            continue;
        };
        let text = std::fs::read_to_string(&path).unwrap();
        for other in used(&text) {
            let known = layers.contains(other.as_str());
            if known && other != own && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{}: {own} uses {other}", path.display()));
            }
        }
        seen.insert(own);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let missing: Vec<_> = layers.iter().filter(|l| !seen.contains(**l)).collect();
    assert!(missing.is_empty(), "layers without files: {missing:?}");
}

#[test]
fn arrows_point_one_way() {
    let below = |name: &str| ARROWS.iter().find(|(n, _)| *n == name).unwrap().1;
    for (name, _) in ARROWS {
        let (mut reached, mut open) = (BTreeSet::new(), below(name).to_vec());
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(below(next));
            }
        }
        assert!(!reached.contains(name), "{name} reaches itself");
    }
}

#[test]
fn every_module_opens_with_its_page() {
    let bad: Vec<String> = all_sources()
        .iter()
        .filter(|p| !std::fs::read_to_string(p).unwrap().starts_with("//!"))
        .map(|p| p.display().to_string())
        .collect();
    assert!(bad.is_empty(), "no `//!` at the top:\n{}", bad.join("\n"));
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = all_sources()
        .iter()
        .map(|p| (p, std::fs::read_to_string(p).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(p, lines)| format!("{}: {lines} lines", p.display()))
        .collect();
    assert!(long.is_empty(), "over {LINES} lines:\n{}", long.join("\n"));
}

/// The reference would prove nothing if it asked what it is held against: it knows instructions by name and shape, and
/// computes all else itself.
#[test]
fn the_reference_shares_no_code_with_the_executor() {
    let theirs = ["num", "machine", "timing", "chip", "sim", "compiler", "asm"];
    // Functions of `num` that its type carries into `isa`.
    let methods = [
        "dtype.bits()",
        ".bytes_for(",
        ".is_float()",
        "Dtype::from_code",
    ];
    let mut files = 0;
    for path in all_sources() {
        if layer(&path).as_deref() != Some("reference") {
            continue;
        }
        files += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text
            .lines()
            .filter(|l| !l.trim_start().starts_with("//"))
            .collect();
        let mut code = code.join("\n");
        // The evaluation of graphs reads what a graph is, and nothing that computes.
        let graphs = ["graph.rs", "rowwise.rs", "graph/grouped.rs"];
        if graphs.iter().any(|f| path.ends_with(f)) {
            code = code.replace("crate::compiler::graph::", "");
            code = code.replace("crate::compiler::rowwise::", "");
        }
        for layer in theirs {
            for mention in [format!("crate::{layer}"), format!("isa::{layer}")] {
                assert!(!code.contains(&mention), "{}: {mention}", path.display());
            }
            assert!(!used(&code).contains(layer), "{}: {layer}", path.display());
        }
        // `super` of the reference's own modules only.
        assert!(!code.contains("super::super::"), "{}", path.display());
        for method in methods {
            assert!(!code.contains(method), "{}: {method}", path.display());
        }
    }
    assert!(files > 5, "{files} files of the reference");
}
