//! The programs that ship: `programs/isa`, one for each instruction, and `programs/kernels`, against references written apart
//! from the machine ([`reference`]).
//!
//! Every program runs untimed and timed, in order and with units shuffled, and must end with the same bytes each time.
//! `ledger.txt` keeps the simulated cycles of the kernels; `UPDATE_GOLDEN=1` writes it.

mod reference;

use reference::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tilewright::asm::{assemble, assemble_text, disassemble, object, read_source};
use tilewright::chip::Chip;
use tilewright::isa::INFO;
use tilewright::isa::image::Image;
use tilewright::machine::op::{Queue, UnitId};
use tilewright::machine::{
    BlockedOn, LoadOptions, Machine, RunError, TrapKind, UntimedLimits, run_untimed,
};
use tilewright::timing::{self, TimedOptions};

/// The chips that ship.
const PRESETS: [&str; 4] = ["mini", "maia-200", "maia-200-2ghz", "maia-200-full"];

/// Bound on the steps and cycles of a run: reached only by a program that does not end.
const LIMIT: u64 = 1 << 24;

/// A way to run a program; the number shuffles the order of units, 0 does not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Untimed(u64),
    Timed(u64),
}

const MODES: [Mode; 4] = [
    Mode::Untimed(0),
    Mode::Untimed(7),
    Mode::Timed(0),
    Mode::Timed(7),
];

fn chip(name: &str) -> Arc<Chip> {
    Arc::new(Chip::preset(name).unwrap())
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(name)
}

/// The sources of a folder by name, sorted.
fn programs(name: &str) -> Vec<(String, PathBuf)> {
    let files = std::fs::read_dir(folder(name)).unwrap();
    let mut all: Vec<(String, PathBuf)> = files
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "s"))
        .map(|p| (p.file_stem().unwrap().to_str().unwrap().to_owned(), p))
        .collect();
    all.sort();
    all
}

fn load_source(path: &Path) -> Arc<Image> {
    Arc::new(assemble(path).unwrap_or_else(|e| panic!("{}", e.render(false))))
}

/// A kernel with other values of some of its `.equ`.
fn kernel(name: &str, parameters: &[(&str, i64)]) -> Arc<Image> {
    let path = folder("kernels").join(name).with_extension("s");
    let mut text = read_source(path.to_str().unwrap()).unwrap();
    for (symbol, value) in parameters {
        let start = format!(".equ {symbol}, ");
        let line = text.lines().find(|l| l.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{name} has no {symbol}"));
        text = text.replace(line, &format!("{start}{value}"));
    }
    let image = assemble_text(path.to_str().unwrap(), &text, &read_source);
    Arc::new(image.unwrap_or_else(|e| panic!("{}", e.render(false))))
}

/// The machine after the run, and its cycles if it was timed.
fn run_on(
    chip: &Arc<Chip>,
    image: &Arc<Image>,
    mode: Mode,
    data: bool,
) -> Result<(Machine, Option<u64>), RunError> {
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    let mut machine = Machine::load(chip.clone(), image.clone(), &options).unwrap();
    match mode {
        Mode::Untimed(order_seed) => {
            let limits = UntimedLimits {
                max_steps: LIMIT,
                order_seed,
            };
            run_untimed(&mut machine, &limits).map(|_| (machine, None))
        }
        Mode::Timed(seed) => {
            let options = TimedOptions {
                max_cycles: Some(LIMIT),
                shuffle: (seed != 0).then_some(seed),
                ..TimedOptions::default()
            };
            timing::run(machine, &options).map(|r| (r.machine, Some(r.cycles)))
        }
    }
}

/// Runs a kernel on a chip in every mode: the checks it carries itself hold, its output is the same each time, shuffling and
/// leaving out the data change no cycle. Gives the machine at the end.
fn check_modes(chip_name: &str, name: &str, parameters: &[(&str, i64)], output: &str) -> Machine {
    let (chip, image) = (chip(chip_name), kernel(name, parameters));
    let what = |mode: Mode| format!("{name} {parameters:?} on {chip_name}, {mode:?}");
    let mut first: Option<Machine> = None;
    let mut all_cycles = BTreeSet::new();
    for mode in MODES {
        let (machine, cycles) =
            run_on(&chip, &image, mode, true).unwrap_or_else(|e| panic!("{}: {e}", what(mode)));
        assert_eq!(machine.check_expectations(), [], "{}", what(mode));
        all_cycles.extend(cycles);
        let Some(before) = &first else {
            first = Some(machine);
            continue;
        };
        let same = before.tensor_bytes(output).unwrap() == machine.tensor_bytes(output).unwrap();
        assert!(same, "{}: {output} differs from the first run", what(mode));
    }
    let (_, cycles) = run_on(&chip, &image, Mode::Timed(0), false).unwrap();
    all_cycles.extend(cycles);
    assert_eq!(
        all_cycles.len(),
        1,
        "{name} {parameters:?} on {chip_name}: {all_cycles:?}"
    );
    first.unwrap()
}

#[test]
fn every_instruction_has_one_program_that_contains_it() {
    let names: Vec<String> = programs("isa").into_iter().map(|p| p.0).collect();
    let mut wanted: Vec<String> = INFO.iter().map(|i| i.name.replace('.', "_")).collect();
    wanted.sort();
    assert_eq!(names, wanted);
    for info in &INFO {
        let path = folder("isa")
            .join(info.name.replace('.', "_"))
            .with_extension("s");
        let image = load_source(&path);
        let sections = [&image.tile, &image.cluster, &image.chip, &image.kernel_code];
        let mut insts = sections.iter().flat_map(|s| &s.insts);
        assert!(insts.any(|i| i.info().op == info.op), "{}", path.display());
        // A program that can only pass would test nothing.
        let traps = image.tile.insts.iter().any(|i| i.info().name == "trap");
        let expects = image.tensors.iter().any(|t| t.expect.is_some());
        assert!(traps || expects, "{} checks nothing", path.display());
    }
}

/// What a self-checking program came to: nothing if it passed.
fn failure(name: &str, run: Result<(Machine, Option<u64>), RunError>) -> Option<String> {
    match run {
        Ok(_) if name == "trap" => Some("ended without its trap".into()),
        Ok((machine, _)) => {
            let wrong = machine.check_expectations();
            wrong.first().map(ToString::to_string)
        }
        Err(RunError::Trap(t))
            if name == "trap" && t.kind == TrapKind::Program(77) && t.unit == UnitId::Tile(0) =>
        {
            None
        }
        Err(e) => Some(e.to_string()),
    }
}

#[test]
fn instruction_programs_pass() {
    for chip_name in PRESETS {
        let chip = chip(chip_name);
        for (name, path) in programs("isa") {
            let image = load_source(&path);
            for mode in MODES {
                if let Some(e) = failure(&name, run_on(&chip, &image, mode, true)) {
                    panic!("{name} on {chip_name}, {mode:?}: {e}");
                }
            }
        }
    }
}

/// Truncated to 13 bits: 2^-18 beside 448 * 448 is lost, and so is 31/16 beside 2^24. The same cycles.
#[test]
fn a_chip_may_truncate_sums() {
    let exact = chip("mini");
    let mut cut = Chip::clone(&exact);
    cut.set("ttu.accumulate=truncate:13").unwrap();
    let cut = Arc::new(cut);
    let image = load_source(&folder("isa").join("mm.s"));
    for mode in MODES {
        let (machine, cycles) = run_on(&cut, &image, mode, true).unwrap();
        assert_eq!(machine.tensor_f32("EXACT").unwrap(), [0.0]);
        assert_eq!(machine.tensor_f32("BLOCK").unwrap(), [16777216.0; 2]);
        // Sums of few bits are as ever.
        assert_eq!(machine.tensor_f32("OUT").unwrap()[..2], [19.0, 20.0]);
        assert_eq!(run_on(&exact, &image, mode, true).unwrap().1, cycles);
    }
}

#[test]
fn programs_survive_the_way_through_object_and_disassembly() {
    let all = programs("isa").into_iter().chain(programs("kernels"));
    for (name, path) in all {
        let bytes = object::write(&load_source(&path));
        let text = disassemble(&object::read(&bytes).unwrap());
        let again = assemble_text("again.s", &text, &read_source)
            .unwrap_or_else(|e| panic!("{name}: {}", e.render(false)));
        assert!(
            object::write(&again) == bytes,
            "{name}: other bytes after disassembly"
        );
    }
}

#[test]
fn stream_copy_copies() {
    // Shorter than one chunk, a whole number of chunks, a ragged end; the program compares by itself.
    for bytes in [4, 48 << 12, (3 << 20) + 1332] {
        check_modes("maia-200", "stream_copy", &[("BYTES", bytes)], "DST");
        check_modes("mini", "stream_copy", &[("BYTES", bytes)], "DST");
    }
}

#[test]
fn vector_add_adds() {
    for (chip, n) in [
        ("mini", 77),
        ("mini", 40_000),
        ("maia-200", 1 << 19),
        ("maia-200-full", 999_999),
    ] {
        let m = check_modes(chip, "vector_add", &[("N", n)], "C");
        let [a, b, c] = ["A", "B", "C"].map(|t| m.tensor_f32(t).unwrap());
        assert_eq!(c.len(), n as usize);
        for (i, c) in c.iter().enumerate() {
            // One addition has one right result.
            assert_eq!(*c, a[i] + b[i], "element {i} of {n} on {chip}");
        }
    }
}

#[test]
fn row_softmax_matches_f64() {
    for (chip, rows, cols) in [
        ("maia-200", 1000, 1000),
        ("maia-200-full", 41, 256),
        ("mini", 37, 100),
        ("mini", 16, 129),
        ("mini", 1, 1),
    ] {
        let m = check_modes(chip, "row_softmax", &[("M", rows), ("COLS", cols)], "Y");
        let (x, y) = (m.tensor_f32("X").unwrap(), m.tensor_f32("Y").unwrap());
        assert_eq!(y.len() as i64, rows * cols);
        for (x, y) in x.chunks(cols as usize).zip(y.chunks(cols as usize)) {
            softmax_row(x, y);
        }
    }
}

#[test]
fn matmul_tile_matches_f64() {
    for (chip, m, n, k) in [
        ("maia-200", 200, 300, 500),
        ("mini", 129, 257, 65),
        ("mini", 33, 1, 7),
        ("mini", 1, 1, 1),
    ] {
        let sizes = [("M", m), ("N", n), ("K", k)];
        let machine = check_modes(chip, "matmul_tile", &sizes, "C");
        let [a, b, c] = ["A", "B", "C"].map(|t| machine.tensor_f32(t).unwrap());
        assert_eq!(c.len() as i64, m * n);
        let (n, k) = (n as usize, k as usize);
        for (i, row) in c.chunks(n).enumerate() {
            for (j, got) in row.iter().enumerate() {
                dot_within_tolerance(&a[i * k..][..k], (0..k).map(|x| b[x * n + j]), *got);
            }
        }
    }
}

#[test]
fn matmul_multicast_matches_bit_for_bit() {
    // Blocks of C that divide among the tiles and that do not; groups in which tiles sit out; one element.
    for (chip, m, n, k, rows) in [
        ("maia-200", 512, 1152, 1024, 73),
        ("maia-200", 260, 1300, 600, 29),
        ("maia-200-full", 512, 1152, 1024, 101),
        ("mini", 260, 1300, 600, 29),
        ("mini", 1, 1, 1, 1),
    ] {
        let sizes = [("M", m), ("N", n), ("K", k)];
        let machine = check_modes(chip, "matmul_multicast", &sizes, "C");
        let [a, b, c] = ["A", "B", "C"].map(|t| machine.tensor_f32(t).unwrap());
        assert_eq!(c.len() as i64, m * n);
        let (n, k) = (n as usize, k as usize);
        let last = m as usize - 1;
        for i in (0..last).step_by(rows).chain([last]) {
            for j in 0..n {
                let want = fp8_dot_to_bf16(&a[i * k..][..k], (0..k).map(|x| b[x * n + j]));
                assert_eq!(c[i * n + j], want, "C[{i}, {j}] on {chip}");
            }
        }
    }
}

#[test]
fn flash_attention_matches_f64() {
    let default = Attention {
        q_len: 384,
        kv_len: 384,
        heads: 12,
        kv_heads: 6,
        dim: 128,
        causal: true,
    };
    let small = |q_len, kv_len, causal| Attention {
        q_len,
        kv_len,
        heads: 4,
        kv_heads: 1,
        dim: 128,
        causal,
    };
    for (chip, a, step) in [
        ("maia-200", default, 5),
        ("maia-200-full", default, 31),
        ("mini", small(100, 200, false), 1),
        ("mini", small(100, 203, true), 1),
        // Queries that see no key give zeros.
        ("mini", small(200, 70, true), 1),
        ("mini", small(1, 131, true), 1),
        ("mini", small(1, 1, false), 1),
        (
            "maia-200",
            Attention {
                dim: 64,
                ..small(300, 300, true)
            },
            7,
        ),
    ] {
        let scale = std::f32::consts::LOG2_E / (a.dim as f32).sqrt();
        let parameters = [
            ("SQ", a.q_len as i64),
            ("SKV", a.kv_len as i64),
            ("HEADS", a.heads as i64),
            ("KVHEADS", a.kv_heads as i64),
            ("D", a.dim as i64),
            ("CAUSAL", i64::from(a.causal)),
            ("C_BITS", i64::from(scale.to_bits())),
        ];
        let m = check_modes(chip, "flash_attention", &parameters, "O");
        let [q, k, v, o] = ["Q", "K", "V", "O"].map(|t| m.tensor_f32(t).unwrap());
        a.check(&q, &k, &v, &o, step);
    }
}

#[test]
fn ping_pong_plays_any_number_of_rounds() {
    for chip in ["mini", "maia-200"] {
        for rounds in [1, 8, 20] {
            check_modes(chip, "ping_pong", &[("ROUNDS", rounds)], "RESULT");
        }
    }
}

#[test]
fn deadlock_is_reported() {
    for chip_name in ["mini", "maia-200"] {
        for mode in MODES {
            let image = kernel("deadlock", &[]);
            let Err(error) = run_on(&chip(chip_name), &image, mode, true) else {
                panic!("deadlock ended on {chip_name}, {mode:?}");
            };
            assert_eq!(error.exit_code(), 4);
            let RunError::Deadlock(report) = &error else {
                panic!("{error}");
            };
            let [entry] = &report.blocked[..] else {
                panic!("{error}");
            };
            assert_eq!(entry.units, [UnitId::Tile(0), UnitId::Tile(1)]);
            assert_eq!(entry.queue, Some(Queue::Dma(0)));
            let BlockedOn::Semaphores(needs) = &entry.on else {
                panic!("{error}");
            };
            assert_eq!((needs.len(), needs[0].sem, needs[0].needs), (1, 0, 1));
            // Both sends stand in their queues and would signal it.
            assert_eq!(entry.pending.len(), 2, "{error}");
            let place = entry.place.as_deref().unwrap_or_default();
            assert!(place.contains("deadlock.s:"), "{error}");
        }
    }
}

/// Simulated cycles of every kernel as it ships, so that a change of the model shows. Without data, which changes no cycle.
#[test]
fn ledger_of_cycles() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/ledger.txt");
    let mut found =
        String::from("# chip, kernel, cycles. Written by UPDATE_GOLDEN=1 cargo test ledger\n");
    for chip_name in PRESETS {
        let chip = chip(chip_name);
        for (name, path) in programs("kernels").iter().filter(|p| p.0 != "deadlock") {
            let (_, cycles) = run_on(&chip, &load_source(path), Mode::Timed(0), false)
                .unwrap_or_else(|e| panic!("{name} on {chip_name}: {e}"));
            found += &format!("{chip_name:<14} {name:<18} {:>9}\n", cycles.unwrap());
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == kept,
        "cycles changed; if meant, UPDATE_GOLDEN=1\nkept:\n{kept}\nfound:\n{found}"
    );
}
