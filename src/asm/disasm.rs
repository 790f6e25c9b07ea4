//! From an image back to text, and the listing.
//!
//! Models: text that assembles to the same object, byte for byte: `.file` and `.loc` keep the line table, quoted names keep
//! names that the language would read otherwise, every tensor has its place. Branch targets without a label get one that
//! starts with `.L` and so leaves no symbol. Leaves out: macros, `.equ` and table names, which an image does not hold.
//! Invariant: needs an image as [`super::object::read`] accepts it; any other gives text that may not assemble.

use super::inst::register;
use super::lexer::{is_name, quote};
use crate::isa::FieldKind;
use crate::isa::image::{Class, Image, Init, Line, Section, Tensor};
use crate::isa::text::{Names, print};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::ops::Range;

/// The section directives and the sections' names in listings.
const CONTROL: [(&str, &str); 3] = [
    (".tile", "tile"),
    (".cluster", "cluster"),
    (".chip", "chip"),
];

/// Bytes of data in a line.
const DATA_ROW: usize = 128;

/// Whether a symbol may be called so without quotes: a name that means no register, placeholder or label of the language's own.
pub fn is_plain(name: &str) -> bool {
    let reserved =
        register(name).is_some() || matches!(name, "zero" | "ra" | "_") || name.starts_with(".L");
    is_name(name) && !reserved
}

/// A name as the language reads it.
fn name(name: &str) -> String {
    match is_plain(name) {
        true => name.to_owned(),
        false => quote(name),
    }
}

/// Labels of one scope: the names of its words.
struct Labels<'i> {
    image: &'i Image,
    /// The scope's words.
    range: Range<usize>,
    names: BTreeMap<usize, Vec<String>>,
    /// The word that is being printed.
    word: usize,
}

impl<'i> Labels<'i> {
    /// `past`: whether a label after the last word belongs to the scope.
    fn new(image: &'i Image, section: &Section, range: Range<usize>, past: bool) -> Self {
        let mut names: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (label, word) in &section.labels {
            let word = *word as usize;
            if range.contains(&word) || (past && word == range.end) {
                names.entry(word).or_default().push(name(label));
                taken.insert(label.as_str());
            }
        }
        for word in range.clone() {
            let inst = &section.insts[word];
            let field = inst
                .info()
                .fields
                .iter()
                .find(|f| matches!(f.kind, FieldKind::Target));
            let target =
                field.and_then(|f| word.checked_add_signed(f.value(section.words[word]) as isize));
            if let Some(target) = target.filter(|t| range.contains(t)) {
                names.entry(target).or_insert_with(|| {
                    let mut generated = format!(".L{target}");
                    while taken.contains(generated.as_str()) {
                        generated.push('_');
                    }
                    vec![generated]
                });
            }
        }
        Labels {
            image,
            range,
            names,
            word: 0,
        }
    }
}

impl Names for Labels<'_> {
    fn target(&self, offset: i64) -> String {
        self.word
            .checked_add_signed(offset as isize)
            .and_then(|word| self.names.get(&word)?.first().cloned())
            .unwrap_or_else(|| offset.to_string())
    }

    fn kernel(&self, index: i64) -> String {
        let kernel = usize::try_from(index)
            .ok()
            .and_then(|i| self.image.kernels.get(i));
        kernel.map_or_else(|| index.to_string(), |k| name(&k.name))
    }
}

/// The program as text that assembles to the same object.
pub fn disassemble(image: &Image) -> String {
    let mut out = String::new();
    for file in &image.files {
        let _ = writeln!(out, ".file {}", quote(file));
    }
    let _ = writeln!(out, ".loc none");
    for (key, value) in &image.notes {
        let _ = writeln!(out, ".note {}, {}", name(key), quote(value));
    }
    for t in &image.tensors {
        tensor(&mut out, t);
    }
    for words in image.constants.chunks(4) {
        let words: Vec<String> = words.iter().map(|w| format!("{w:#x}")).collect();
        let _ = writeln!(out, ".const _, {}", words.join(", "));
    }
    let mut last = Line::default();
    for (section, (directive, _)) in [&image.tile, &image.cluster, &image.chip]
        .into_iter()
        .zip(CONTROL)
    {
        if section.words.is_empty() && section.labels.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{directive}");
        code(
            &mut out,
            image,
            section,
            0..section.words.len(),
            true,
            &mut last,
        );
    }
    for k in &image.kernels {
        let _ = writeln!(out, "\n.kernel {}", name(&k.name));
        let range = k.start as usize..k.start as usize + k.len as usize;
        code(&mut out, image, &image.kernel_code, range, false, &mut last);
    }
    out
}

fn code(
    out: &mut String,
    image: &Image,
    section: &Section,
    range: Range<usize>,
    past: bool,
    last: &mut Line,
) {
    let mut labels = Labels::new(image, section, range, past);
    let lines = section
        .lines
        .iter()
        .copied()
        .chain(std::iter::repeat(Line::default()));
    let lines: Vec<Line> = lines.take(section.words.len()).collect();
    for word in labels.range.clone() {
        labels.word = word;
        for label in labels.names.get(&word).into_iter().flatten() {
            let _ = writeln!(out, "{label}:");
        }
        if lines[word] != *last {
            *last = lines[word];
            match image.files.get(last.file as usize) {
                Some(file) => {
                    let _ = writeln!(out, "  .loc {}, {}", quote(file), last.line);
                }
                None => out.push_str("  .loc none\n"),
            }
        }
        let _ = writeln!(out, "  {}", print(&section.insts[word], &labels));
    }
    for label in labels.names.get(&labels.range.end).into_iter().flatten() {
        let _ = writeln!(out, "{label}:");
    }
}

fn tensor(out: &mut String, t: &Tensor) {
    let shape: Vec<String> = t.shape.iter().map(u64::to_string).collect();
    let class = match t.class {
        Class::Payload => "payload",
        Class::Control => "control",
    };
    let pitch = t.pitch.map_or(String::new(), |p| format!(", pitch {p}"));
    let _ = writeln!(
        out,
        ".tensor {}, {}, {}, [{}], {class}, {}, at {:#x}{pitch}",
        name(&t.name),
        t.space.name(),
        t.dtype,
        shape.join(", "),
        init(&t.init),
        t.offset
    );
    contents(out, t);
    if let Some(expect) = &t.expect {
        let _ = writeln!(out, ".expect {}, {}", name(&t.name), init(expect));
    }
}

/// Words of four bytes in hexadecimal, so that a reader can count.
fn hex(row: &[u8]) -> String {
    let mut out = String::with_capacity(2 * row.len() + row.len() / 4);
    for (i, byte) in row.iter().enumerate() {
        if i > 0 && i % 4 == 0 {
            out.push(' ');
        }
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The lines that give the contents of all tensors that have some as data: what a program's own text leaves out.
pub fn data_lines(out: &mut String, image: &Image) {
    image.tensors.iter().for_each(|t| contents(out, t));
}

fn contents(out: &mut String, t: &Tensor) {
    if let Init::Data(data) = &t.init {
        for row in data.chunks(DATA_ROW) {
            let _ = writeln!(out, ".data {}, \"{}\"", name(&t.name), hex(row));
        }
    }
}

fn init(init: &Init) -> String {
    match init {
        Init::None => "none".into(),
        Init::Zero => "zero".into(),
        Init::Iota => "iota".into(),
        // Decimal numbers end at the largest signed one.
        Init::Normal(seed) => format!("normal({seed:#x})"),
        Init::Values(values) => {
            // `{:?}` of a float is the shortest text that reads back the same, and always has a point or an exponent.
            let values: Vec<String> = values
                .iter()
                .map(|v| format!("{v:?}").to_ascii_lowercase())
                .collect();
            format!("values({})", values.join(", "))
        }
        // The bytes follow in lines of their own.
        Init::Data(_) => "none".into(),
    }
}

/// Address, word, instruction and source line of every word. `loader` reads the sources; lines of files that cannot be read
/// are left out.
pub fn listing(image: &Image, loader: &dyn Fn(&str) -> std::io::Result<String>) -> String {
    let mut sources = HashMap::new();
    for file in &image.files {
        let text = loader(file).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(|l| l.trim().to_owned()).collect();
        sources.insert(file.as_str(), lines);
    }
    let mut out = String::new();
    for (section, (_, title)) in [&image.tile, &image.cluster, &image.chip]
        .into_iter()
        .zip(CONTROL)
    {
        list(
            &mut out,
            image,
            section,
            title,
            0..section.words.len(),
            &sources,
        );
    }
    for k in &image.kernels {
        let range = k.start as usize..k.start as usize + k.len as usize;
        let title = format!("kernel {}", k.name);
        list(&mut out, image, &image.kernel_code, &title, range, &sources);
    }
    out
}

fn list(
    out: &mut String,
    image: &Image,
    section: &Section,
    title: &str,
    range: Range<usize>,
    sources: &HashMap<&str, Vec<String>>,
) {
    if range.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}:");
    let mut labels = Labels::new(image, section, range, false);
    for word in labels.range.clone() {
        labels.word = word;
        for label in labels.names.get(&word).into_iter().flatten() {
            let _ = writeln!(out, "{label}:");
        }
        let text = print(&section.insts[word], &labels);
        let mut row = format!("{word:6}  {:016x}  {text}", section.words[word]);
        if let Some(place) = image.place(section, word) {
            let line = section.lines[word];
            let source = image
                .files
                .get(line.file as usize)
                .and_then(|f| sources.get(f.as_str())?.get(line.line as usize - 1))
                .map_or("", String::as_str);
            row = format!("{row:<64}  # {place}: {source}");
        }
        let _ = writeln!(out, "{}", row.trim_end());
    }
}
