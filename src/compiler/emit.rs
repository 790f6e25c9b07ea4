//! A small builder for assembly text that people read, and the allocator of a tile's SRAM.
//!
//! Models: comments, sections, labels, named registers, aligned trailing comments; buffers at fixed offsets of TSRAM. Leaves
//! out: what the text means (the assembler checks it). Invariants: a register name is given once per text; buffers are
//! 256-byte aligned, do not overlap and end inside the TSRAM.

use super::CompileError;
use super::stage::Site;
use crate::chip::Chip;
use std::fmt::Write;

/// Column of trailing comments.
const COMMENT_COLUMN: usize = 56;
/// Alignment of buffers in TSRAM: the request size of the DMA engines.
const BUFFER_ALIGN: u64 = 256;

/// Assembly text under construction.
#[derive(Clone, Debug, Default)]
pub struct Text {
    text: String,
    registers: Vec<String>,
    labels: usize,
}

impl Text {
    /// A comment line, or several.
    pub fn comment(&mut self, text: &str) {
        for line in text.lines() {
            let _ = writeln!(self.text, "{}", format!("# {line}").trim_end());
        }
    }

    /// An empty line.
    pub fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A directive at the margin: `.tile`, `.tensor A, hbm, ..`.
    pub fn directive(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}");
    }

    /// `.equ name, value`.
    pub fn equ(&mut self, name: &str, value: u64, comment: &str) {
        self.aligned(&format!(".equ {name}, {value}"), comment);
    }

    /// `.note KEY, "VALUE"`; quotes and backslashes of the value are escaped.
    pub fn note(&mut self, key: &str, value: &str) {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(self.text, ".note {key}, \"{value}\"");
    }

    /// Gives names to the next free control registers, r1 upwards, with a comment each.
    ///
    /// # Panics
    /// Past r31, or if a name is given twice: the lowering is wrong.
    pub fn registers(&mut self, names: &[(&str, &str)]) {
        for (name, comment) in names {
            assert!(
                !self.registers.iter().any(|r| r == name),
                "register `{name}` named twice"
            );
            self.registers.push((*name).to_owned());
            assert!(
                self.registers.len() <= 31,
                "no control register left for `{name}`"
            );
            self.aligned(&format!(".reg {name}, r{}", self.registers.len()), comment);
        }
    }

    /// A label at the margin.
    pub fn label(&mut self, name: &str) {
        let _ = writeln!(self.text, "{name}:");
    }

    /// A label name that no other call returns.
    pub fn fresh(&mut self, stem: &str) -> String {
        self.labels += 1;
        format!("{stem}_{}", self.labels)
    }

    /// An instruction.
    pub fn inst(&mut self, text: &str) {
        let _ = writeln!(self.text, "    {text}");
    }

    /// An instruction with a trailing comment.
    pub fn inst_c(&mut self, text: &str, comment: &str) {
        self.aligned(&format!("    {text}"), comment);
    }

    /// Several instructions, one per line; `# ..` starts a trailing comment, an empty line stays.
    pub fn block(&mut self, lines: &str) {
        for line in lines.lines().map(str::trim) {
            match line.split_once('#') {
                _ if line.is_empty() => self.blank(),
                Some(("", comment)) => {
                    let _ = writeln!(self.text, "    # {}", comment.trim());
                }
                Some((inst, comment)) => self.inst_c(inst.trim(), comment.trim()),
                None if line.ends_with(':') => self.label(line.trim_end_matches(':')),
                None => self.inst(line),
            }
        }
    }

    fn aligned(&mut self, text: &str, comment: &str) {
        if comment.is_empty() {
            let _ = writeln!(self.text, "{text}");
        } else {
            let _ = writeln!(self.text, "{text:<COMMENT_COLUMN$}# {comment}");
        }
    }

    /// Zeroes registers: what a program finds at its start, a stage may not.
    pub fn clear(&mut self, names: &[&str]) {
        for name in names {
            self.inst(&format!("li {name}, 0"));
        }
    }

    /// Text made apart, whose labels and registers no other part has.
    pub fn raw(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Named buffers in TSRAM, the same on every tile.
#[derive(Clone, Debug)]
pub struct TsramLayout {
    /// Name, offset and bytes, in order.
    pub buffers: Vec<(String, u64, u64)>,
    base: u64,
    size: u64,
    reserved: u64,
}

impl TsramLayout {
    /// An empty TSRAM of the chip's size.
    pub fn new(chip: &Chip) -> TsramLayout {
        TsramLayout {
            buffers: Vec::new(),
            base: 0,
            size: chip.tsram.size_bytes,
            reserved: 0,
        }
    }

    /// The empty part of the TSRAM that a stage may use.
    pub fn of(site: &Site) -> TsramLayout {
        TsramLayout {
            base: site.tsram,
            ..TsramLayout::new(&site.chip)
        }
    }

    /// Keeps the first `bytes` for the first buffer.
    pub fn reserve(&mut self, bytes: u64) {
        self.reserved = bytes;
    }

    /// Bytes taken, aligned.
    pub fn used(&self) -> u64 {
        self.buffers.last().map_or(0, |(_, offset, bytes)| {
            let end = (offset + bytes - self.base).next_multiple_of(BUFFER_ALIGN);
            end.max(self.reserved)
        })
    }

    /// Places a buffer and returns its offset; an error if it does not fit.
    pub fn place(&mut self, name: &str, bytes: u64) -> Result<u64, CompileError> {
        let used = self.used();
        if bytes > self.size.saturating_sub(used) {
            return Err(CompileError::Tsram {
                name: name.to_owned(),
                bytes,
                end: used.saturating_add(bytes),
                limit: self.size,
            });
        }
        let offset = self.base + used;
        self.buffers.push((name.to_owned(), offset, bytes));
        Ok(offset)
    }

    /// Declares the buffers as byte tensors, so that programs and debuggers know them by name.
    pub fn declare(&self, text: &mut Text) {
        for (name, offset, bytes) in &self.buffers {
            text.directive(&format!(
                ".tensor {name}, tsram, u8, [{bytes}], payload, at {offset:#x}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_bounded() {
        let chip = Chip::preset("mini").unwrap();
        let mut layout = TsramLayout::new(&chip);
        assert_eq!(layout.place("a", 100), Ok(0));
        assert_eq!(layout.place("b", 256), Ok(256));
        let error = layout.place("c", 1 << 20).unwrap_err().to_string();
        assert_eq!(
            error,
            "buffer `c` of 1048576 bytes ends at 1049088, past the tile's 262144 bytes of SRAM"
        );
        assert_eq!(layout.place("d", (256 << 10) - 512), Ok(512));
        assert!(layout.place("e", 1).is_err());
    }

    #[test]
    fn text_is_aligned() {
        let mut t = Text::default();
        t.registers(&[("kk", "chunk")]);
        t.block("top:\n addi kk, kk, 1 # next\n\n# done\n halt");
        let expect = format!(
            "{:<56}# chunk\ntop:\n{:<56}# next\n\n    # done\n    halt\n",
            ".reg kk, r1", "    addi kk, kk, 1"
        );
        assert_eq!(t.finish(), expect);
    }
}
