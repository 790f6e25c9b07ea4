//! The sanitizer: every kind of report from a small program that plants it, none from the programs that ship, and none missed
//! when a wait or a signal of a shipped kernel is taken away.

mod cli;
mod memory;
mod mutation;
mod narrow;
mod order;
mod semaphores;
mod shipped;

use std::sync::Arc;
use tilewright::asm::assemble_text;
use tilewright::chip::Chip;
use tilewright::isa::image::Image;
use tilewright::machine::sanitize::{Kind, Report};
use tilewright::machine::{
    LoadOptions, Machine, RunError, SanitizeOptions, Sanitized, UntimedLimits, sanitize,
};

/// What every program here begins with: buffers, tensors with and without contents, and names.
const PRELUDE: &str = "\
.tensor IN, hbm, u8, [1024], payload, iota
.tensor OUT, hbm, u8, [1024], payload
.tensor BUF, tsram, u8, [1024], payload
.tensor BUF2, tsram, u8, [1024], payload
.tensor FULL, tsram, u8, [1024], payload, iota
.tensor TABLE, tsram, i32, [16], control, values(0)
.equ TILE_SPACE, 2 << 40
.equ OWN_SPACE, 4 << 40
.tile
 rdsr r30, tile
 li r1, IN
 li r2, OUT
 li r3, BUF
 li r4, BUF2
 li r5, FULL
 li r6, TABLE
 li r7, 1
 li r9, 64
";

/// The program of tile 0 alone, after the prelude.
fn tile_0(body: &str) -> String {
    format!("{PRELUDE} beqz r30, only\n halt\nonly:\n{body}\n halt\n")
}

/// Programs of tile 0 and of tile 1.
fn tiles(first: &str, second: &str) -> String {
    format!("{PRELUDE} bnez r30, second\n{first}\n halt\nsecond:\n{second}\n halt\n")
}

fn chip() -> Arc<Chip> {
    Arc::new(Chip::preset("mini").unwrap())
}

fn image(text: &str) -> Arc<Image> {
    let none = |_: &str| Err(std::io::Error::other("no includes"));
    let assembled = assemble_text("t.s", text, &none);
    Arc::new(assembled.unwrap_or_else(|e| panic!("{}", e.render(false))))
}

fn machine(chip: Arc<Chip>, image: Arc<Image>, data: bool) -> Machine {
    let options = LoadOptions {
        data,
        ..LoadOptions::default()
    };
    Machine::load(chip, image, &options).unwrap()
}

fn sanitized(text: &str, data: bool, order_seed: u64) -> Sanitized {
    let options = SanitizeOptions {
        limits: UntimedLimits {
            max_steps: 1 << 24,
            order_seed,
        },
        ..SanitizeOptions::default()
    };
    sanitize(&machine(chip(), image(text), data), &options)
}

/// The marks at the end of a program's lines, `# A` and so on, and their lines.
fn marked(text: &str, mark: char) -> usize {
    let end = format!("# {mark}");
    let line = text.lines().position(|l| l.ends_with(&end));
    1 + line.unwrap_or_else(|| panic!("no `{end}`"))
}

/// Line of an operation that a report names.
fn line(place: &Option<String>) -> usize {
    let place = place.as_deref().unwrap();
    place.strip_prefix("t.s:").unwrap().parse().unwrap()
}

/// Kind, line of the operation and line of the other one, 0 for none.
fn summary(report: &Report) -> (Kind, usize, usize) {
    let other = report.other.as_ref().map_or(0, |o| line(&o.place));
    (report.kind, line(&report.operation.place), other)
}

/// Runs a program in several orders, with and without data: each time exactly these reports, by the marks of their lines
/// (`-`: no other operation).
fn reports(text: &str, want: &[(Kind, char, char)]) {
    for (data, seed) in [
        (true, 0),
        (false, 0),
        (true, 1),
        (true, 2),
        (true, 3),
        (true, 4),
    ] {
        let run = sanitized(text, data, seed);
        if let Err(error @ (RunError::Deadlock(_) | RunError::SanitizerLimit { .. })) = &run.result
        {
            panic!("{error}");
        }
        let mut got: Vec<_> = run.findings.reports.iter().map(summary).collect();
        let at = |mark| if mark == '-' { 0 } else { marked(text, mark) };
        let mut want: Vec<_> = want.iter().map(|(k, a, b)| (*k, at(*a), at(*b))).collect();
        // Which of two units comes first only the run says.
        for (kind, a, b) in got.iter_mut().chain(&mut want).filter(|_| seed != 0) {
            let race = [
                Kind::ReadUnderWrite,
                Kind::WriteUnderRead,
                Kind::WriteUnderWrite,
            ];
            if race.contains(kind) && text.contains("second:") {
                (*a, *b) = (*a.min(b), *a.max(b));
                if *kind == Kind::WriteUnderRead {
                    *kind = Kind::ReadUnderWrite;
                }
            }
        }
        got.sort_unstable();
        want.sort_unstable();
        assert_eq!(
            got, want,
            "data {data}, order {seed}\n{text}\n{}",
            run.findings
        );
    }
}

/// A program that orders everything.
fn clean(text: &str) {
    reports(text, &[]);
}
