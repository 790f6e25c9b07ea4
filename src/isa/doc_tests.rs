//! Pages: every section there, the drawing bit by bit against the encoder.

use super::*;
use crate::isa::strategy;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The sections of a page: heading to text.
fn sections(page: &str) -> BTreeMap<String, String> {
    let mut sections = BTreeMap::new();
    for part in page.split("\n## ").skip(1) {
        let (heading, text) = part.split_once('\n').unwrap();
        sections.insert(heading.to_owned(), text.trim().to_owned());
    }
    sections
}

#[test]
fn every_page_is_complete() {
    for info in INFO.iter() {
        let page = page(info, "TEXT OF THE COST");
        assert!(page.starts_with(&format!("# `{}` (", info.name)), "{page}");
        assert!(page.contains("\n**Summary:** ") && page.contains("\n**Unit:** "));
        let sections = sections(&page);
        for heading in [
            "Syntax",
            "Encoding",
            "Operands",
            "Functional model",
            "Traps",
            "Example",
            "Performance",
            "Related instructions",
        ] {
            let text = sections.get(heading).map_or("", String::as_str);
            assert!(text.len() > 3, "{}: {heading}: {text}", info.name);
        }
        assert_eq!(sections.len(), 8, "{}", info.name);
        assert!(sections["Functional model"].contains(info.model.trim()));
        assert!(sections["Syntax"].contains(info.syntax));
        assert_eq!(sections["Performance"], "TEXT OF THE COST");
        for field in info.fields {
            let row = format!("| `{}` | ", field.name);
            assert!(sections["Operands"].contains(&row), "{}", info.name);
            assert!(!field.meaning.is_empty());
        }
        for trap in info.traps {
            assert!(sections["Traps"].contains(trap), "{}", info.name);
        }
        assert!(!related(info).is_empty(), "{}", info.name);
        assert!(program(info).contains(info.name), "{}", info.name);
        for line in page.lines() {
            assert!(!line.ends_with(' '), "{}: {line}|", info.name);
        }
    }
}

#[test]
fn relations_go_both_ways() {
    for info in INFO.iter() {
        for other in related(info) {
            let back = related(other).iter().any(|i| i.op == info.op);
            assert!(back, "{} and {}", info.name, other.name);
        }
    }
}

#[test]
fn the_index_names_every_instruction_once() {
    let index = index();
    for info in INFO.iter() {
        let link = format!("- [`{0}`]({0}.md): ", info.name);
        assert_eq!(index.matches(&link).count(), 1, "{}", info.name);
    }
}

/// Every name that a model uses is an operand, a Rust word or one that `model.md` explains.
#[test]
fn models_use_explained_names_only() {
    const LANGUAGE: &[&str] = &[
        "let",
        "if",
        "else",
        "for",
        "in",
        "match",
        "as",
        "mut",
        "true",
        "false",
        "Some",
        "None",
        "u64",
        "i64",
        "u32",
        "i32",
        "u8",
        "min",
        "max",
        "clamp",
        "abs",
        "map",
        "len",
        "push",
        "push_back",
        "last",
        "is_empty",
        "step_by",
        "number",
    ];
    for info in INFO.iter() {
        // Comments and strings are prose.
        let code: String = info
            .model
            .lines()
            .map(|l| l.split("//").next().unwrap_or(""))
            .collect::<Vec<_>>()
            .join("\n");
        let code: String = code.split('"').step_by(2).collect();
        let calls = code.match_indices('(').filter_map(|(at, _)| {
            let head = &code[..at];
            let start = head.rfind(|c: char| !c.is_alphanumeric() && c != '_');
            let name = &head[start.map_or(0, |s| s + 1)..];
            (!name.is_empty()).then_some(name)
        });
        for name in calls {
            let known = LANGUAGE.contains(&name)
                || MODEL_LANGUAGE.contains(name)
                || code.contains(&format!("let {name} = |"))
                || name.starts_with(char::is_uppercase);
            assert!(known, "{}: `{name}(` is explained nowhere", info.name);
        }
    }
}

/// What the drawing says of each bit, by column: the text of its box, keys spelt out.
fn drawn(info: &InstInfo) -> Vec<String> {
    let text = drawing(info);
    let lines: Vec<&str> = text.lines().collect();
    let spelt = |name: &str| {
        let key = lines[10..]
            .iter()
            .find_map(|l| l.trim().strip_prefix(&format!("{name} = ")));
        key.unwrap_or(name).to_owned()
    };
    let mut bits = vec![String::new(); 64];
    for (line, high) in [(0, 63), (5, 31)] {
        let (ruler, rule, names) = (lines[line + 1], lines[line + 2], lines[line + 3]);
        assert_eq!(rule, lines[line + 4], "{text}");
        assert_eq!(
            [rule.len(), names.len(), ruler.len()],
            [65, 65, 64],
            "{text}"
        );
        for i in 0..32 {
            let (bit, column) = (high - i, 2 * i + 1);
            assert_eq!(&ruler[column..=column], &(bit % 10).to_string(), "{text}");
            let left = names[..column].rfind('|').unwrap();
            let right = column + names[column..].find('|').unwrap();
            // Corners stand exactly at the borders.
            assert_eq!(&rule[left..=left], "+", "{text}");
            assert!(rule[left + 1..right].bytes().all(|b| b == b'-'), "{text}");
            bits[bit] = spelt(names[left + 1..right].trim());
        }
    }
    bits
}

/// The bits of the field or piece of a field that a box shows.
fn width(name: &str, info: &InstInfo) -> (&'static str, u32) {
    let (field, low) = match name.split_once('[') {
        None => (name, 0),
        Some((field, range)) => {
            let low = range.trim_end_matches(']').rsplit(':').next().unwrap();
            (field, low.parse().unwrap())
        }
    };
    let field = info.fields.iter().find(|f| f.name == field);
    (field.unwrap_or_else(|| panic!("{name}")).name, low)
}

proptest! {
    /// Reading a random instruction's fields from its word by the drawing alone gives what the encoder put there.
    #[test]
    fn the_drawing_is_the_encoding(inst in strategy::inst()) {
        let (info, word) = (inst.info(), inst.encode());
        let bits = drawn(info);
        let mut read: BTreeMap<&str, u64> = info.fields.iter().map(|f| (f.name, 0)).collect();
        let mut opcode = 0;
        let mut start = 0;
        for (bit, name) in bits.iter().enumerate() {
            if bit == 32 || bit > 0 && bits[bit - 1] != *name {
                start = bit;
            }
            let value = word >> bit & 1;
            match name.as_str() {
                "0" => prop_assert_eq!(value, 0, "bit {} of {}", bit, info.name),
                code if code.starts_with("0x") => {
                    prop_assert_eq!(code, format!("{:#04x}", info.opcode));
                    opcode |= value << bit;
                }
                name => {
                    let (field, low) = width(name, info);
                    *read.get_mut(field).unwrap() |= value << (bit - start) << low;
                }
            }
        }
        prop_assert_eq!(opcode, u64::from(info.opcode));
        for field in info.fields {
            prop_assert_eq!(read[field.name], field.raw(word), "{} of {}", field.name, inst);
        }
    }
}

#[test]
fn layouts_cover_each_bit_once() {
    for info in INFO.iter() {
        let parts = layout(info);
        let mut next = 0;
        for (_, lo, bits) in &parts {
            assert_eq!(*lo, next, "{}", info.name);
            next += bits;
        }
        assert_eq!(next, 64, "{}", info.name);
        assert!(drawn(info).iter().all(|name| !name.is_empty()));
    }
}
