//! Hostile input: what reads files and text must answer with a value or an error, whatever the bytes.
//!
//! Models: one function per reader ([`TARGETS`]), which panics if the reader breaks a promise, and a small driver that makes
//! inputs from a corpus by mutation. Leaves out: feedback from code coverage. Coverage-guided engines need a nightly
//! compiler or a C toolchain, while these functions run on stable Rust anywhere, in `cargo test` as well as in `fuzz/`;
//! they take plain bytes, so that an engine can be put in front of them. Invariants: input `i` of a seed is a pure function
//! of corpus, seed and `i`; a target bounds its own work, so that it cannot hang unless the reader does.

use super::chips::Shape;
use super::run::assemble;
use crate::asm::{assemble_text, disassemble, object};
use crate::chip::Chip;
use crate::cli::npy;
use crate::isa::Inst;
use crate::isa::image::Image;
use crate::machine::{LoadOptions, Machine, UntimedLimits, run_untimed};
use crate::num::random::splitmix64;
use crate::timing::{self, TimedOptions};
use crate::trace::file::{self, Listing, Recording, TraceError};
use std::path::Path;
use std::sync::Arc;

/// Longest input that the driver makes.
const LONGEST: usize = 1 << 16;

/// A reader under attack.
pub struct Target {
    /// Its name, and that of its folder of the corpus.
    pub name: &'static str,
    /// What must hold.
    pub doc: &'static str,
    /// Panics if it does not.
    pub run: fn(&[u8]),
    /// An input from a file of the corpus that is called `.s` (others are inputs as they are).
    pub seed: fn(&[u8]) -> Vec<u8>,
    /// Places in the input have meaning: most mutations keep its length.
    pub binary: bool,
    /// Pieces of text that mutations put in.
    pub words: &'static [&'static str],
}

/// All targets.
pub static TARGETS: &[Target] = &[
    Target {
        name: "decode",
        doc: "any word is an instruction, which encodes to that word and prints, or an error",
        run: decode,
        seed: words_of,
        binary: true,
        words: &[],
    },
    Target {
        name: "assembler",
        doc: "any text is a program, whose object reads back, or has errors that render",
        run: assembler,
        seed: <[u8]>::to_vec,
        binary: false,
        words: ASSEMBLY,
    },
    Target {
        name: "object",
        doc: "any file is refused or is a program, whose disassembly assembles to the same bytes",
        run: object_file,
        seed: object_of,
        binary: true,
        words: &["\u{7f}ELF", ".tile", ".strtab"],
    },
    Target {
        name: "run",
        doc: "any program that assembles ends, with and without time, in a result or an error",
        run: run_program,
        seed: <[u8]>::to_vec,
        binary: false,
        words: ASSEMBLY,
    },
    Target {
        name: "chip",
        doc: "any text is a valid chip or an error that prints",
        run: chip,
        seed: <[u8]>::to_vec,
        binary: false,
        words: &[
            "clock",
            "= ",
            "[",
            "]",
            "{ value = ",
            "estimate = \"\"",
            "source",
            "\"",
            "base = \"maia-200\"",
            "noc",
            ".",
            "2.15 GHz",
            "KiB",
            "cycles",
            "hbm.device",
            "B/cycle",
            "%",
            "#",
            "\n",
            "'''",
        ],
    },
    Target {
        name: "npy",
        doc: "any file is an array whose data has the size of its shape, or an error",
        run: npy_file,
        seed: <[u8]>::to_vec,
        binary: true,
        words: &[
            "'descr'",
            "'<f4'",
            "'>i2'",
            "'fortran_order'",
            "True",
            "(",
            ")",
            ",",
            "'shape'",
            "\u{93}NUMPY",
        ],
    },
    Target {
        name: "trace",
        doc: "any folder is a recording that writes back to the same, or an error; checksums are made to fit",
        run: trace_folder,
        seed: trace_of,
        binary: true,
        words: &[
            "\"engines\"",
            "\"reasons\"",
            "[",
            "]",
            "{",
            "}",
            ":",
            "\"idle\"",
            "null",
            "sums_ps",
            "18446744073709551615",
        ],
    },
];

/// Names, directives and punctuation of the assembly language.
const ASSEMBLY: &[&str] = &[
    ".tile",
    ".cluster",
    ".chip",
    ".kernel k",
    ".tensor t, hbm, f32, [4], payload",
    ".tensor",
    "tsram",
    "csram",
    "hbm",
    "control",
    "normal(1)",
    "values(",
    "iota",
    "at",
    ".align",
    ".expect",
    ".const",
    ".equ",
    ".set",
    ".include \"a\"",
    ".macro m a",
    ".endm",
    ".if",
    ".else",
    ".endif",
    ".rept",
    ".endr",
    ".scope s",
    ".endscope",
    ".data t, \"00\"",
    ".note",
    ".loc",
    ".file",
    "\\@",
    "\\a",
    "1:",
    "1b",
    "1f",
    "float(",
    "size(",
    "dim(",
    "defined(",
    "(r1)",
    "r0",
    "v31",
    "p7",
    "?p1",
    "s15",
    "dma.u8.u8",
    "dma.t.f32.e4m3",
    "mm.new.e4m3.e4m3.mk.kn",
    "mm.store.f32",
    "vrun",
    "signal.dest",
    "sem.wait",
    "wait",
    "halt",
    "vret",
    "loop",
    "jal",
    "vld.f32",
    "vcvt.e4m3.f32",
    "vperm.i32",
    "mcast",
    "gather",
    "<<",
    ">>",
    "/",
    "%",
    "&&",
    "==",
    "\"",
    "#",
    ",",
    "\n",
    "-",
    "~",
    "(",
    ")",
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

fn decode(data: &[u8]) {
    for bytes in data.as_chunks().0 {
        let word = u64::from_le_bytes(*bytes);
        match Inst::decode(word) {
            Ok(inst) => {
                assert_eq!(inst.encode(), word, "{inst}");
                assert!(!inst.to_string().is_empty());
            }
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
}

/// The image of a text; errors must render.
fn image(data: &[u8]) -> Option<Image> {
    let text = std::str::from_utf8(data).ok()?;
    let none = |_: &str| Err(std::io::Error::other("no such file"));
    match assemble_text("fuzz.s", text, &none) {
        Ok(image) => Some(image),
        Err(e) => {
            assert!(!e.render(false).is_empty());
            None
        }
    }
}

fn assembler(data: &[u8]) {
    let Some(image) = image(data) else { return };
    let bytes = object::write(&image);
    let back = object::read(&bytes).unwrap_or_else(|e| panic!("the own object is refused: {e}"));
    assert!(
        object::write(&back) == bytes,
        "an object changes when it is read and written"
    );
}

fn object_file(data: &[u8]) {
    let Ok(image) = object::read(data) else {
        return;
    };
    let bytes = object::write(&image);
    let text = disassemble(&image);
    let none = |_: &str| Err(std::io::Error::other("no such file"));
    let again = assemble_text("fuzz.s", &text, &none).unwrap_or_else(|e| {
        panic!(
            "the own disassembly is refused: {}\n{text}",
            e.render(false)
        )
    });
    assert!(
        object::write(&again) == bytes,
        "a disassembly assembles to another object:\n{text}"
    );
}

fn run_program(data: &[u8]) {
    let Some(image) = image(data).map(Arc::new) else {
        return;
    };
    let Ok(chip) = Shape::MINI.chip().map(Arc::new) else {
        return;
    };
    for payloads in [true, false] {
        let options = LoadOptions {
            data: payloads,
            memory_limit: 64 << 20,
        };
        let load = || Machine::load(chip.clone(), image.clone(), &options);
        let Ok(mut machine) = load() else { return };
        let limits = UntimedLimits {
            max_steps: 5_000,
            order_seed: 1,
        };
        let ended = run_untimed(&mut machine, &limits).map(|_| ());
        let options = TimedOptions {
            max_cycles: Some(20_000),
            trace: payloads,
            ..TimedOptions::default()
        };
        let Ok(machine) = load() else { return };
        let timed = timing::run(machine, &options).map(|_| ());
        for error in [ended, timed].into_iter().filter_map(Result::err) {
            assert!(!error.to_string().is_empty());
        }
    }
}

fn chip(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Chip::from_toml(text, "fuzz.toml") {
        Ok(chip) => chip
            .validate()
            .unwrap_or_else(|e| panic!("a chip that was read is invalid: {e}")),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
    // The same lines as values of `--set`.
    if let Ok(mut chip) = Chip::preset("mini") {
        for line in text.lines().take(40) {
            if let Err(e) = chip.set(line) {
                assert!(!e.to_string().is_empty());
            }
        }
    }
}

fn npy_file(data: &[u8]) {
    if let Ok(Ok(array)) = npy::read_from(data) {
        let elements: u64 = array.shape.iter().product();
        assert_eq!(
            elements * array.element.bytes() as u64,
            array.data.len() as u64
        );
    }
}

/// A trace folder in one piece: lengths of `meta.json` and `spans.bin`, then the three files.
fn trace_folder(data: &[u8]) {
    let Some((lengths, rest)) = data.split_at_checked(8) else {
        return;
    };
    let length = |i: usize| {
        u32::from_le_bytes([lengths[i], lengths[i + 1], lengths[i + 2], lengths[i + 3]]) as usize
    };
    let Some((meta, rest)) = rest.split_at_checked(length(0)) else {
        return;
    };
    let Some((spans, ops)) = rest.split_at_checked(length(4)) else {
        return;
    };
    let meta = file::with_checksums(meta, spans, ops);
    let Ok(recording) = self::recording(&meta, spans, ops) else {
        return;
    };
    let parts = file::encode(&recording);
    let [meta, spans, ops] =
        parts.unwrap_or_else(|e| panic!("a recording that was read cannot be written: {e}"));
    match self::recording(&meta, &spans, &ops) {
        Ok(again) => assert!(
            again == recording,
            "a recording changes when it is written and read"
        ),
        Err(e) => panic!("a recording that was written is refused: {e}"),
    }
}

fn recording(meta: &[u8], spans: &[u8], ops: &[u8]) -> Result<Recording, TraceError> {
    file::decode(Path::new("fuzz"), |name| {
        Ok(match name {
            "meta.json" => meta.to_vec(),
            "spans.bin" => spans.to_vec(),
            _ => ops.to_vec(),
        })
    })
}

/// The program of a corpus file; one that does not assemble is a mistake in the corpus.
fn corpus_image(text: &[u8]) -> Arc<Image> {
    assemble(&String::from_utf8_lossy(text)).unwrap_or_else(|e| panic!("a corpus file: {e}"))
}

fn words_of(text: &[u8]) -> Vec<u8> {
    let image = corpus_image(text);
    let sections = [&image.tile, &image.cluster, &image.chip, &image.kernel_code];
    let words = sections.iter().flat_map(|s| &s.words);
    words.flat_map(|w| w.to_le_bytes()).collect()
}

fn object_of(text: &[u8]) -> Vec<u8> {
    object::write(&corpus_image(text))
}

fn trace_of(text: &[u8]) -> Vec<u8> {
    let image = corpus_image(text);
    let chip = Shape::MINI.chip().unwrap_or_else(|e| panic!("mini: {e}"));
    let options = TimedOptions {
        trace: true,
        ..TimedOptions::default()
    };
    let run = super::run::timed(&chip, &image, true, &options);
    let run = run.unwrap_or_else(|e| panic!("a corpus file: {e}"));
    let recording = Recording {
        trace: run.trace,
        listing: Listing::new(&image),
    };
    let parts = file::encode(&recording);
    let [meta, spans, ops] = parts.unwrap_or_else(|e| panic!("a corpus file: {e}"));
    let mut out = (meta.len() as u32).to_le_bytes().to_vec();
    out.extend((spans.len() as u32).to_le_bytes());
    [meta, spans, ops].iter().for_each(|part| out.extend(part));
    out
}

/// Inputs of a target from the files of a folder, sorted by name.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn corpus(target: &Target, folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    let input = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path)?;
        let is_source = path.extension().is_some_and(|e| e == "s");
        Ok(if is_source {
            (target.seed)(&bytes)
        } else {
            bytes
        })
    };
    paths.iter().map(input).collect()
}

/// Random numbers in order.
struct Random {
    seed: u64,
    next: u64,
}

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.next += 1;
        (splitmix64(self.seed, self.next) % n.max(1) as u64) as usize
    }
}

/// Input `index` of a seed: the corpus itself, then mutations of it, and now and then noise.
pub fn input(target: &Target, corpus: &[Vec<u8>], seed: u64, index: u64) -> Vec<u8> {
    if let Some(file) = usize::try_from(index).ok().and_then(|i| corpus.get(i)) {
        return file.clone();
    }
    let mut random = Random {
        seed: splitmix64(seed, index),
        next: 0,
    };
    let r = &mut random;
    let mut data = match (r.below(16), corpus) {
        (0, _) | (_, []) => (0..r.below(300)).map(|_| r.below(256) as u8).collect(),
        _ => corpus[r.below(corpus.len())].clone(),
    };
    // Most often few changes: an input that is refused at once tests little.
    let most = 1 << r.below(5);
    for _ in 0..1 + r.below(most) {
        mutate(target, corpus, &mut data, r);
    }
    data.truncate(LONGEST);
    data
}

/// Numbers at edges.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65536",
    "4294967295",
    "4294967296",
    "1099511627776",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "0x7fffffffffff",
    "1e308",
    "nan",
    "-0.0",
];

/// The first kinds of mutation keep the length.
const IN_PLACE: usize = 3;

fn mutate(target: &Target, corpus: &[Vec<u8>], data: &mut Vec<u8>, r: &mut Random) {
    let at = r.below(data.len() + 1);
    let most = 1 << r.below(8);
    let len = r.below(most).min(data.len() - at);
    let kinds = match target.binary && r.below(4) > 0 {
        true => IN_PLACE,
        false => 9,
    };
    match r.below(kinds) {
        0 if at < data.len() => data[at] ^= 1 << r.below(8),
        1 if at < data.len() => data[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b' ', b'"'][r.below(8)],
        3 => drop(data.drain(at..at + len)),
        4 => {
            let piece = data[at..at + len].to_vec();
            let to = r.below(data.len() + 1);
            data.splice(to..to, piece);
        }
        2 => {
            let number = r.below(usize::MAX) as u64 >> r.below(64);
            let bytes = &number.to_le_bytes()[..1 << r.below(4)];
            let end = (at + bytes.len()).min(data.len());
            data.splice(at..end, bytes[..end - at].iter().copied());
        }
        5 if !corpus.is_empty() => {
            let other = &corpus[r.below(corpus.len())];
            let from = r.below(other.len() + 1);
            let piece = &other[from..(from + r.below(200)).min(other.len())];
            data.splice(at..at + len, piece.iter().copied());
        }
        6 if !target.words.is_empty() => {
            let word = target.words[r.below(target.words.len())];
            let end = at + len * r.below(2);
            data.splice(at..end, word.bytes());
        }
        7 => {
            // The next number in the text becomes another.
            let digit = |b: &u8| b.is_ascii_digit();
            if let Some(start) = data[at..].iter().position(digit).map(|p| at + p) {
                let end = data[start..]
                    .iter()
                    .position(|b| !digit(b))
                    .map_or(data.len(), |p| start + p);
                let number = NUMBERS[r.below(NUMBERS.len())];
                data.splice(start..end, number.bytes());
            }
        }
        8 => {
            // A line moves.
            let line = |b: &u8| *b == b'\n';
            let start = data[..at].iter().rposition(line).map_or(0, |p| p + 1);
            let end = data[at..]
                .iter()
                .position(line)
                .map_or(data.len(), |p| at + p + 1);
            let piece: Vec<u8> = data.drain(start..end).collect();
            let to = r.below(data.len() + 1);
            let to = data[..to].iter().rposition(line).map_or(0, |p| p + 1);
            data.splice(to..to, piece);
        }
        _ if target.binary => {}
        _ => data.insert(at, r.below(256) as u8),
    }
}

/// Runs inputs `0 .. count` of a seed.
pub fn drive(target: &Target, corpus: &[Vec<u8>], seed: u64, count: u64) {
    for index in 0..count {
        (target.run)(&input(target, corpus, seed, index));
    }
}
