//! A program under test: state to start from, instructions, and what shows the state they leave. It is text: what fails is
//! printed as a file that `tilewright run` accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Where the initial bytes of a program are, in every memory.
pub const SOURCE: u64 = 0x1000;
/// Where programs write, in every memory.
pub const TARGET: u64 = 0x8000;
/// Where a kernel's registers are stored at its end, in the TSRAM.
const SHOWN: u64 = 0xc000;
/// Address of byte 0 of the own TSRAM.
pub const OWN_TSRAM: u64 = 4 << 40;
/// Address of byte 0 of the own CSRAM.
pub const OWN_CSRAM: u64 = 3 << 40;

/// Whose processor runs the control lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum On {
    /// Tile 0.
    #[default]
    Tile,
    /// Cluster processor 0.
    Cluster,
    /// The chip processor.
    Chip,
    /// All of all kinds.
    Everyone,
}

/// A program.
#[derive(Clone, Default)]
pub struct Program {
    pub on: On,
    /// Values of control registers.
    pub registers: BTreeMap<u8, u64>,
    /// Control code, without the `halt` at its end.
    pub control: Vec<String>,
    /// Words of the constant table.
    pub constants: Vec<u64>,
    /// Bytes at the source area of a memory (of every unit that has one), by its name.
    pub sources: BTreeMap<&'static str, Vec<u8>>,
    /// Values of a kernel's scalar registers, s1 to s12.
    pub scalars: BTreeMap<u8, u64>,
    /// 32-bit lanes of vector registers; the last one repeats.
    pub vectors: BTreeMap<u8, Vec<u32>>,
    /// Lanes of 16 bits of predicates; the last one repeats.
    pub predicates: BTreeMap<u8, Vec<bool>>,
    /// Lines of a kernel, without the `vret` at its end, that the control code launches itself.
    pub launched: Vec<String>,
    /// Lines of a kernel, without the `vret` at its end; the control code is then its launch.
    pub kernel: Vec<String>,
}

/// Numbers of the registers of one file that lines name.
fn mentioned(lines: &[String], file: char) -> BTreeSet<u8> {
    let words = lines
        .iter()
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '.'));
    words
        .filter_map(|word| word.strip_prefix(file)?.parse().ok())
        .collect()
}

/// A word as the assembler reads it: expressions are signed, and no literal is past the largest.
fn literal(word: u64) -> String {
    match word as i64 {
        i64::MIN => format!("-{} - 1", i64::MAX),
        value => value.to_string(),
    }
}

fn list(values: impl Iterator<Item = i64>) -> String {
    let mut values: Vec<String> = values.map(|v| v.to_string()).collect();
    // The last value repeats to the end.
    while values.len() > 1 && values[values.len() - 1] == values[values.len() - 2] {
        values.pop();
    }
    values.join(", ")
}

impl Program {
    /// Its assembly text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.data(&mut out).expect("strings take everything");
        if !self.kernel.is_empty() {
            self.kernel_text(&mut out).expect("strings take everything");
        }
        if !self.launched.is_empty() {
            let lines = self.launched.join("\n    ");
            writeln!(out, ".kernel k\n    {lines}\n    vret").expect("strings take everything");
        }
        let sections: &[(&str, &str)] = match self.on {
            On::Tile => &[(".tile", "tile")],
            On::Cluster => &[(".cluster", "cluster")],
            On::Chip => &[(".chip", "")],
            On::Everyone => &[(".tile", ""), (".cluster", ""), (".chip", "")],
        };
        for (section, guard) in sections {
            self.section(&mut out, section, guard)
                .expect("strings take everything");
        }
        out
    }

    /// Lines of the text that are under test, which its size is measured by.
    pub fn lines(&self) -> usize {
        self.control.len() + self.kernel.len()
    }

    fn data(&self, out: &mut String) -> std::fmt::Result {
        for (space, bytes) in self.sources.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            let count = bytes.len();
            let bytes = list(bytes.iter().map(|b| i64::from(*b)));
            writeln!(
                out,
                ".tensor SOURCE_{space}, {space}, u8, [{count}], control, values({bytes}), at {SOURCE}"
            )?;
        }
        for word in &self.constants {
            writeln!(out, ".const _, {}", literal(*word))?;
        }
        let named = mentioned(&self.kernel, 'v');
        for (v, lanes) in self.vectors.iter().filter(|(v, _)| named.contains(v)) {
            let lanes = list(lanes.iter().map(|l| i64::from(*l as i32)));
            let at = 0x4000 + 512 * u64::from(*v);
            writeln!(
                out,
                ".tensor V{v}, tsram, i32, [128], control, values({lanes}), at {at}"
            )?;
        }
        let named = mentioned(&self.kernel, 'p');
        for (p, lanes) in self.predicates.iter().filter(|(p, _)| named.contains(p)) {
            // 1.0 in BF16.
            let lanes = list(lanes.iter().map(|on| if *on { 0x3f80 } else { 0 }));
            let at = 0x7000 + 512 * u64::from(*p);
            writeln!(
                out,
                ".tensor P{p}, tsram, i16, [256], control, values({lanes}), at {at}"
            )?;
        }
        Ok(())
    }

    fn kernel_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, ".kernel k")?;
        let predicates = mentioned(&self.kernel, 'p');
        for p in self.predicates.keys().filter(|p| predicates.contains(p)) {
            writeln!(out, "    sli s15, P{p}\n    vld.i16 v31, 0(s15)")?;
            writeln!(out, "    vcmp.ne.bf16 p{p}, v31, v30")?;
        }
        let vectors = mentioned(&self.kernel, 'v');
        for v in self.vectors.keys().filter(|v| vectors.contains(v)) {
            writeln!(out, "    sli s15, V{v}\n    vld.i32 v{v}, 0(s15)")?;
        }
        for line in &self.kernel {
            writeln!(out, "    {line}")?;
        }
        // Everything that the lines name is stored.
        let mut at = OWN_TSRAM + SHOWN;
        let mut store = |out: &mut String, v: u8| {
            let text = writeln!(out, "    sli s15, {at:#x}\n    vst.i32 v{v}, 0(s15)");
            at += 512;
            text
        };
        for v in &vectors {
            store(out, *v)?;
        }
        for s in mentioned(&self.kernel, 's').iter().filter(|s| **s != 0) {
            writeln!(out, "    vbc.i32 v31, s{s}")?;
            store(out, 31)?;
            writeln!(out, "    sshri s14, s{s}, 32\n    vbc.i32 v31, s14")?;
            store(out, 31)?;
        }
        for p in predicates.iter().filter(|p| **p != 0) {
            writeln!(
                out,
                "    sli s14, 1\n    vbc.bf16 v30, s14\n    vbc.bf16 v29, s0"
            )?;
            writeln!(out, "    vsel.bf16 v31, p{p}, v30, v29")?;
            store(out, 31)?;
        }
        writeln!(out, "    vret")
    }

    fn section(&self, out: &mut String, section: &str, guard: &str) -> std::fmt::Result {
        writeln!(out, "{section}")?;
        if !guard.is_empty() {
            writeln!(out, "    rdsr r31, {guard}\n    bne r31, r0, done")?;
        }
        let mut registers: BTreeMap<u8, u64> = BTreeMap::new();
        let mut lines = self.control.clone();
        if self.kernel.is_empty() {
            let named = mentioned(&self.control, 'r');
            let named = |(r, _): &(&u8, &u64)| named.contains(*r);
            registers.extend(self.registers.iter().filter(named));
        } else {
            let named = mentioned(&self.kernel, 's');
            let last = named.iter().copied().filter(|s| *s <= 12).max();
            let given = self.scalars.iter().filter(|(s, _)| named.contains(*s));
            registers.extend(given);
            lines.push(format!("vrun k, r1, {}", last.unwrap_or(0)));
        }
        for (r, value) in registers {
            match value as i64 {
                small if (-(1 << 47)..1 << 47).contains(&small) => {
                    let text = if small.unsigned_abs() < 1 << 16 {
                        format!("{small}")
                    } else if small < 0 {
                        format!("-{:#x}", small.unsigned_abs())
                    } else {
                        format!("{small:#x}")
                    };
                    writeln!(out, "    li r{r}, {text}")?;
                }
                _ => {
                    let (name, value) = (format!("R{r}_{}", &section[1..]), literal(value));
                    writeln!(out, ".const {name}, {value}\n    ldc r{r}, {name}")?;
                }
            }
        }
        for line in &lines {
            writeln!(out, "    {line}")?;
        }
        let label = if guard.is_empty() { "" } else { "done:" };
        writeln!(out, "{label}\n    halt")
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\n{}", self.text())
    }
}
