//! Tilewright: an open, cycle-approximate emulator and toolchain for an inference-first AI accelerator.
//!
//! One program text is executed bit-exactly *and* timed. This page is the architecture: read it first.
//!
//! # From above
//!
//! A program is assembled ([`asm`]) or compiled ([`compiler`]) to an [image](isa::image::Image): code for the control
//! processors, vector kernels, tensors with their places. A [chip](chip::Chip) is a table of numbers, each with its source.
//! [`machine`] holds the architectural state and the one executor of what instructions do. It can be run without time
//! ([`machine::run_untimed`]) or by the timed chip ([`timing::run`]), whose units call the same executor when hardware would
//! make the result visible. What engines did, and why they waited, is a [trace](trace::Trace); [`report`] makes figures of it.
//!
//! ```text
//!   .s ── asm ──┐                       ┌── machine::run_untimed ──┐
//!               ├── Image ── machine ───┤                          ├── tensors, checks
//!   op ─ compiler                       └── timing::run ───────────┘
//!                                               └── trace ── report ── tables, JSON, Perfetto
//! ```
//!
//! # Code map
//!
//! | layer | what it is | uses |
//! |---|---|---|
//! | [`num`] | formats, rounding, the exact block product, vector functions, random numbers | nothing |
//! | [`sim`] | event engine: integer picoseconds, partitions, queues for bandwidth, what happens before what (`order`); knows no chip | nothing |
//! | [`isa`] | instruction types generated from `isa/*.toml`, decoder, printer, the program image | num |
//! | [`reference`] | the instruction set a second time, slow and plain, and what graphs and row-wise programs compute, in f64: for tests (feature `testing`) and `--check` | isa, the compiler's graph types |
//! | [`asm`] | assembler, object file, disassembler, diagnostics | isa, num |
//! | [`chip`] | the chip description and its cost formulas (rates and widths; no queueing) | isa, num |
//! | [`machine`] | memories, processors, the executor, the untimed runner, deadlock reports | num, isa, chip, sim |
//! | [`trace`] | event schema, trace folders, exporters | isa, sim |
//! | [`timing`] | every unit as a component of the event engine, and their wiring | machine, chip, sim, trace, isa, num |
//! | [`compiler`] | operation → plan → SRAM allocation → schedule → assembly: `matmul` and what ends it (`epilogue`), `attention`, `rowwise`, `stream`; whole graphs (`graph`) imported from ONNX and Hugging Face (`import`), brought into the chip's forms (`legal`) and made one program (`chain`) of stages (`movement`, `linear`, `grouped` and those above), which is proved against its graph (`check`) and kept (`cache`) | isa, asm, chip, num, sim |
//! | [`report`] | rates, bounds, stalls, lines; times of measured devices; the references of `--check` | trace, chip, asm, isa, num, sim |
//! | [`cli`] | a file per subcommand | all |
//! | `testing` | feature `testing`: strategies, runs compared, fuzz targets for property tests | isa, asm, chip, machine, timing, trace, num, cli's readers |
//!
//! Beside `src`: `isa/` (the instruction set as data, and the build script that generates the types), `programs/kernels`
//! (kernels by hand), `programs/isa` (a self-checking program per instruction), `programs/models` (graphs), `tests/it` (one
//! binary of integration tests), `fuzz/` (a workspace of its own that runs the fuzz targets of `testing`).
//!
//! # Invariants
//!
//! Each is held by a test.
//!
//! - Arrows between layers point one way, as in the table (`tests/it/layers.rs`).
//! - Decoding is total: any word is an instruction or a named error. Printing and assembling give the word back.
//! - The executor and the reference, which share no code, agree on random programs about every instruction
//!   (`tests/it/differential.rs`).
//! - A correctly synchronised program ends with the same bytes untimed, timed, and in any order of its components.
//! - Cycles do not depend on data, on host threads, or on the order of components inside an instant.
//! - Every wait has a named reason; an engine's times sum to the run's; the milestones of an operation tile its life.
//! - No floating-point time, no wall clock and no iteration over hash maps in `sim` and `timing`.
//! - The compiler knows the machine only by the instruction set and the cost formulas; its programs do not grow with the
//!   problem; what it emits is ordinary assembly.
//! - A wrong program ends in a value with its source line, a wrong file in an error with its place; neither in a panic.
//! - Every number of a preset has a source or is marked as an estimate.
//!
//! # Measured
//!
//! The design was held against these figures first (`cargo bench --bench engine`; two cores of a shared host, one thread):
//!
//! | what | figure |
//! |---|---|
//! | event engine, messages of 64 B | 34 to 40 million events a second, up to 1,000 in flight |
//! | thin chip: DMA engines with bounded requests against one memory, trains of 4 KiB | 53 GiB simulated a host second, for 1 and for 64 tiles |
//! | whole chip, matmul 8192^3 FP8 without data | 1.85 million events: one per train and hop, not one per cycle |
//! | one exact HBM channel (`mem`) | 180 million bursts a second of a saturated stream that repeats itself (200,000 bursts; more with more), 8 to 13 million where each is stepped, 4 to 6 million in random blocks of 256 B, 2 million random |
//! | mesh of detailed routers (`noc`, 4x4) | 2.3 million flits a second |
//! | whole chip with `hbm.model = "exact"` | about 5 million bursts a second on one thread, 7 to 11 million on two: five to seven times the host time of the closed forms |
//!
//! Simulated work per host second follows trains, so a matmul's time is that of its traffic: an event costs 0.27 us, most of it
//! the scheduling of a train's 16 requests on HBM channels. Windows between threads are half the crossbar's latency (7 ns), too
//! short to pay without data; with data the arithmetic is shared. The exact channels are bound by their controllers: 1,200 to 1,450
//! instructions a burst under the chip, spread over choice, queues, entry and row commands; each waits for caches besides.
//!
//! A decode step of Llama-3.1-8B (batch 1, 2,048 tokens, FP8) compiles in a second, is 1.1 MiB of program and takes four seconds of host time.
//!
//! # Reading order
//!
//! 1. `programs/kernels/stream_copy.s`, then the other kernels: the machine as a programmer sees it.
//! 2. `isa/dma.toml` and `isa/ttu.toml`; [`isa::image`]: the instruction set and the program.
//! 3. [`machine::op`] (what control code pushes), [`machine::exec`] (what it does), [`machine::untimed`] (the simplest runner).
//! 4. [`sim`], then [`timing`]: `processor`, `dma`, `tensor`, `vector`, `tile`, `cluster`, `global`, `hbm`.
//! 5. `timing::hbm` and `timing::noc`: the parts that also run alone, each with its own page and reading order.
//! 6. [`trace`] and [`report`]: where the time went. [`compiler`]: `op`, `plan`, `matmul`, `attention`, `rowwise`, `stream`, then
//!    whole models: `import`, `graph`, `legal`, `stage` and `chain`; and `check`, which stands apart.
//!
//! # Adding an instruction
//!
//! Its row in `isa/`, its arm in [`machine`], its program in `programs/isa/`; then, written from the page and not from that
//! arm, its arm in `reference` and the programs of `tests/it/differential.rs` about it. The compiler's errors lead to each.
//! Encoder, decoder, assembler, disassembler, reference page and property tests come from the row.

pub mod asm;
pub mod chip;
pub mod cli;
pub mod compiler;
pub mod isa;
pub mod machine;
pub mod num;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
#[cfg(not(any(test, feature = "testing")))]
pub mod reference {
    //! What `--check` needs of the slow references; the rest comes with the feature `testing`.
    pub mod rowwise;
}
pub mod report;
pub mod sim;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod timing;
pub mod trace;
