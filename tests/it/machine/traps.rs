//! Every trap that the ISA names, for every instruction that it names it for.

use super::*;
use std::collections::BTreeSet;
use tilewright::isa::INFO;

/// Where a case's lines stand: after registers r1 to r9 have been set (see [`program`]).
#[derive(Clone, Copy, PartialEq)]
enum At {
    Tile,
    Kernel,
}

/// r1: own TSRAM, r2: HBM, r3 = 3, r4 = 256, r5: 16 bytes before the end of the TSRAM, r6 = -1, r7 = 2^40 - 1 (past HBM),
/// r8 = 0, r9 = 1. In kernels s1 to s5 are r1 to r5.
fn program(at: At, lines: &str) -> String {
    let end = chip().tsram.size_bytes - 16;
    let setup = format!(
        "li r1, x\nli r2, h\nli r3, 3\nli r4, 256\nli r5, {:#x}\nli r6, -1\nli r7, 0xffffffffff\nli r8, 0\nli r9, 1\n",
        (4u64 << 40) + end
    );
    let tensors = ".tensor x, tsram, u8, [1024], payload\n.tensor h, hbm, u8, [1024], payload, zero\n";
    let only_tile_0 = "rdsr r10, tile\nbne r10, r0, done\n";
    match at {
        At::Tile => format!(
            "{tensors}.const c, 1, 2\n.kernel k\n vret\n.tile\n{only_tile_0}{setup}{lines}\ndone:\nhalt\n"
        ),
        At::Kernel => format!(
            "{tensors}.kernel k\n{lines}\n vret\n.tile\n{only_tile_0}{setup}vrun k, r1, 5\ndone:\nhalt\n"
        ),
    }
}

/// The place the error must name: an instruction of this mnemonic.
fn mnemonic(text: &str) -> &str {
    let instruction = text.split('`').nth(1).unwrap_or_default();
    instruction.split(' ').next().unwrap_or_default()
}

#[test]
fn every_trap_of_the_isa() {
    let past = "past tile size 0x40000";
    let mut t = Cases::default();
    use At::{Kernel, Tile};
    // Control code.
    t.case(&["divu", "remu"], "division by zero", Tile, true, "@ r1, r2, r0", "division by zero");
    let branches = ["beq", "bge", "bgeu"];
    let target = "target outside the program";
    t.case(&branches, target, Tile, true, "@ r0, r0, -50", "target -39 outside the program of 13 words");
    t.case(&["bne"], target, Tile, true, "@ r1, r0, 1000", "target 1011 outside");
    t.case(&["blt", "bltu"], target, Tile, true, "@ r0, r9, 1000", "target 1011 outside");
    t.case(&["jal"], target, Tile, true, "@ r0, 4", "target 15 outside");
    t.case(&["jalr"], target, Tile, true, "@ r0, -2(r0)", "target -2 outside");
    let own = "address outside the own SRAM";
    for (base, message) in [("9(r5)", "tsram address"), ("0(r2)", "is in hbm, not in the own tsram"), ("0(r6)", "no memory")] {
        t.case(&["ld"], own, Tile, true, &format!("@ r10, {base}"), message);
    }
    t.case(&["lbu", "lw", "ld", "sb", "sw", "sd"], own, Tile, true, "@ r10, 16(r5)", past);
    t.case(&["lbu", "lw", "ld"], "payload read without data", Tile, false, "@ r10, 0(r1)", "payload tensor `x`");
    t.case(&["ldc"], "index outside the constant table", Tile, true, "@ r10, 2(r0)", "constant 2 past the table of 2 words");
    t.case(&["trap"], "always", Tile, true, "@ 77", "trap 77");
    let unused = "a staged clause (wait, signal, dim, mcast, gather) was never used";
    for clause in ["wait 0, 1", "signal 0, 1", "dim r9, r9, r9", "mcast r9", "gather r1, r9"] {
        let name = clause.split(' ').next().unwrap();
        t.case(&["halt"], unused, Tile, true, clause, &format!("staged `{name}` was never used"));
    }
    // Semaphores and clauses.
    let per_op = few_semaphores().semaphores.per_op as usize;
    let waits = "wait 0, 1\n".repeat(per_op + 1);
    t.case(&["wait"], "more than semaphores.per_op waits staged", Tile, true, &waits, "wait clauses staged");
    let signals = "more than semaphores.per_op signals staged";
    for (name, line) in [
        ("signal", "signal 0, 1\n"),
        ("signal.unit", "signal.unit r0, 0, 1\n"),
        ("signal.tiles", "signal.tiles r9, 0, 1\n"),
        ("signal.dest", "signal.dest 0, 1\n"),
    ] {
        t.case(&[name], signals, Tile, true, &line.repeat(per_op + 1), "signal clauses staged");
    }
    let index = "semaphore index past semaphores.count";
    let count = format!("past semaphores.count = {}", few_semaphores().semaphores.count);
    t.case(&["wait", "signal", "sem.wait"], index, Tile, true, "@ 255(r4), 1", &count);
    t.case(&["signal.unit", "sem.post"], index, Tile, true, "@ r0, 255(r4), 1", &count);
    t.case(&["sem.read"], index, Tile, true, "@ r10, 255(r4)", &count);
    let unit = "no such unit";
    for number in ["r3", "r4", "r6"] {
        let second = if number == "r4" { "addi r4, r4, 1\n" } else { "" };
        let message = "no unit has number";
        t.case(&["signal.unit", "sem.post"], unit, Tile, true, &format!("{second}@ {number}, 0, 1"), message);
    }
    let tiles = "mask names a tile that does not exist";
    t.case(&["signal.tiles"], tiles, Tile, true, "@ r4, 0, 1", "mask 0x100 names a tile that does not exist: there are 2");
    let max = u32::MAX >> (32 - few_semaphores().semaphores.bits);
    let fill = |line: &str| format!("li r11, {}\nagain:\n{line}\naddi r11, r11, -1\nbne r11, r0, again", max / 255 + 1);
    let overflow = "overflows";
    t.case(&["sem.post"], "semaphore overflow at arrival", Tile, true, &fill("sem.post r0, 1, 255"), overflow);
    for (name, clause, trap) in [
        ("signal", "signal 1, 255", "semaphore overflow at retirement"),
        ("signal.unit", "signal.unit r0, 1, 255", "semaphore overflow at arrival"),
        ("signal.tiles", "signal.tiles r9, 1, 255", "semaphore overflow at arrival"),
    ] {
        // The operation that carries the clause is the one to blame.
        let lines = fill(&format!("{clause}\ndma.u8.u8 0, r1, r1, r9"));
        t.case_of(name, trap, Tile, true, &lines, "`dma.u8.u8 0, r1, r1, r9`: semaphore 1 of tile 0 overflows");
    }
    let dest = "the next macro-instruction is not a transfer into SRAM";
    t.case(&["signal.dest"], dest, Tile, true, "@ 0, 1\ndma.u8.u8 0, r2, r1, r4", "needs a transfer into SRAM");
    t.case(&["signal.dest"], dest, Tile, true, "@ 0, 1\nvrun k, r1, 0", "needs a transfer into SRAM");
    // DMA.
    t.case(&["dim"], "more than two dimensions staged", Tile, true, "@ r9, r9, r9\n@ r9, r9, r9\n@ r9, r9, r9", "more than 2 dim");
    t.case(&["dim"], "count 0 or over 2^32", Tile, true, "@ r0, r9, r9", "dim count is 0");
    t.case(&["dim"], "count 0 or over 2^32", Tile, true, "@ r7, r9, r9", "must be 1 to 4294967296");
    let mask = "mask 0 or names a unit that does not exist";
    t.case(&["mcast"], mask, Tile, true, "@ r0\ndma.u8.u8 0, r1, r1, r4", "mask is 0");
    t.case(&["mcast"], mask, Tile, true, "@ r6\ndma.u8.u8 0, r1, r1, r4", "names a tile that does not exist");
    t.case(&["mcast"], "destination is HBM", Tile, true, "@ r9\ndma.u8.u8 0, r2, r1, r4", "destination in HBM");
    t.case(&["gather"], "no dim staged", Tile, true, "@ r1, r9\ndma.u8.u8 0, r1, r1, r4", "`gather` without `dim`");
    let table = "table outside the own SRAM";
    t.case(&["gather"], table, Tile, true, "dim r4, r0, r0\n@ r5, r9\ndma.u8.u8 0, r1, r1, r4", past);
    t.case(&["gather"], table, Tile, true, "dim r9, r0, r0\n@ r2, r9\ndma.u8.u8 0, r1, r1, r4", "is in hbm");
    let gather = "dim r9, r0, r0\n@ r1, r9\ndma.u8.u8 0, r1, r1, r4";
    t.case(&["gather"], "payload read without data", Tile, false, gather, "`gather` reads payload tensor `x`");
    let outside = "address outside its memory";
    for (lines, message) in [
        ("dma.u8.u8 0, r5, r1, r4", past),
        ("dma.u8.u8 0, r1, r5, r4", past),
        ("dma.u8.u8 0, r1, r7, r4", "past hbm size"),
        ("dma.u8.u8 0, r6, r1, r4", "names no memory"),
        ("dim r9, r0, r0\ndim r3, r6, r0\ndma.u8.u8 0, r1, r1, r9", "tsram address -0x2 before its start"),
        ("dim r3, r0, r7\ndma.u8.u8 0, r1, r2, r9", "hbm address 0x1fffffffffe past hbm size"),
    ] {
        t.case(&["dma"], outside, Tile, true, lines, message);
    }
    t.case(&["dma"], "len 0 or over 2^32", Tile, true, "dma.u8.u8 0, r1, r2, r0", "len is 0");
    t.case(&["dma"], "len 0 or over 2^32", Tile, true, "dma.u8.u8 0, r1, r2, r7", "len is 1099511627775");
    let sub_byte = "sub-byte rows that are not whole bytes";
    t.case(&["dma"], sub_byte, Tile, true, "dma.e2m1.u8 0, r1, r1, r3", "3 elements of e2m1");
    t.case(&["dma"], sub_byte, Tile, true, "dma.u8.e2m3 0, r1, r1, r3", "3 elements of e2m3");
    let channel = "channel past dma.channels";
    t.case(&["dma"], channel, Tile, true, "@.u8.u8 7, r1, r1, r3", "channel 7 past dma.channels = 4");
    t.case(&["dma.t"], channel, Tile, true, "@.u8.u8 7, r1, r1, r3, r3, r3, r3", "channel 7 past dma.channels = 4");
    t.case(&["dma.t"], outside, Tile, true, "dma.t.u8.u8 0, r1, r1, r3, r3, r7, r3", past);
    t.case(&["dma.t"], outside, Tile, true, "dma.t.u8.u8 0, r1, r5, r3, r3, r3, r4", past);
    let rows = "rows or cols 0 or over 2^24";
    t.case(&["dma.t"], rows, Tile, true, "dma.t.u8.u8 0, r1, r1, r0, r3, r3, r3", "rows is 0");
    t.case(&["dma.t"], rows, Tile, true, "dma.t.u8.u8 0, r1, r1, r3, r7, r3, r3", "must be 1 to 16777216");
    t.case(&["dma.t"], "sub-byte type", Tile, true, "dma.t.e2m1.u8 0, r1, r1, r3, r3, r3, r3", "cannot transpose e2m1");
    let staged = "dim or gather staged";
    t.case(&["dma.t"], staged, Tile, true, "dim r9, r0, r0\ndma.t.u8.u8 0, r1, r1, r3, r3, r3, r3", "`dim` staged");
    t.case(&["dma.t"], staged, Tile, true, "gather r1, r9\ndma.t.u8.u8 0, r1, r1, r3, r3, r3, r3", "`gather` staged");
    // Tensor unit.
    let operand = "operand outside the own TSRAM";
    let mm = "mm.new.u8.u8.mk.kn".replace("u8", "e4m3");
    let mm_case = |args: &str| format!("{mm} {args}");
    for (args, message) in [
        ("r0, r5, r1, r3, r3, r3, r4, r4", past),
        ("r0, r1, r5, r3, r3, r3, r4, r4", past),
        ("r0, r2, r1, r3, r3, r3, r4, r4", "is in hbm"),
    ] {
        t.case(&["mm"], operand, Tile, true, &mm_case(args), message);
    }
    for args in ["r0, r1, r1, r0, r3, r3, r4, r4", "r0, r1, r1, r3, r0, r3, r4, r4", "r0, r1, r1, r3, r3, r0, r4, r4"] {
        t.case(&["mm"], "m, n or k is 0", Tile, true, &mm_case(args), "is 0, must be 1 to");
    }
    let blocks = "blocks past the accumulator RAM";
    t.case(&["mm"], blocks, Tile, true, &mm_case("r7, r1, r1, r3, r3, r3, r4, r4"), "past ttu.accumulator_blocks");
    t.case(&["mm.load", "mm.store.f32"][..1], blocks, Tile, true, "@ r7, r1, r3, r3, r4", "past ttu.accumulator_blocks");
    t.case(&["mm.store"], blocks, Tile, true, "@.bf16 r0, r1, r7, r3, r4", "must be 1 to");
    let short = "lda or ldb shorter than a row";
    t.case(&["mm"], short, Tile, true, &mm_case("r0, r1, r1, r3, r3, r3, r9, r4"), "lda is 1 bytes, shorter than a row of 3");
    t.case(&["mm"], short, Tile, true, &mm_case("r0, r1, r1, r3, r3, r3, r4, r9"), "ldb is 1 bytes, shorter than a row of 3");
    let mixed = "one operand BF16 and the other not";
    t.case(&["mm"], mixed, Tile, true, "mm.new.bf16.e4m3.mk.kn r0, r1, r1, r3, r3, r3, r4, r4", "BF16 goes with BF16 only");
    for (name, ty) in [("mm.load", ""), ("mm.store", ".bf16")] {
        let line = |args: &str| format!("@{ty} {args}");
        t.case(&[name], operand, Tile, true, &line("r0, r5, r3, r3, r4"), past);
        t.case(&[name], "m or n is 0", Tile, true, &line("r0, r1, r0, r3, r4"), "m is 0");
        t.case(&[name], "m or n is 0", Tile, true, &line("r0, r1, r3, r0, r4"), "n is 0");
        t.case(&[name], blocks, Tile, true, &line("r4, r1, r4, r4, r7"), "past ttu.accumulator_blocks");
        t.case(&[name], "ld shorter than a row", Tile, true, &line("r0, r1, r3, r3, r9"), "ld is 1 bytes");
    }
    // Launches: the assembler refuses what it can see, so these words are put together here.
    t.case(&["vrun"], "n over 12", Tile, true, "vrun k, r1, 13", "13 kernel arguments, at most 12");
    t.case(&["vrun"], "a register past r31", Tile, true, "vrun k, r25, 8", "8 kernel arguments from r25 on end past r31");
    t.case(&["vrun"], "no such kernel", Tile, true, "vrun 7, r1, 0", "kernel 7 does not exist: the program has 1");
    // Network.
    t.case(&["net.put", "net.get"], "no such chip", Tile, true, "@ r9, r1, r2, r3", "no chip 1");
    t.case(&["net.signal"], "no such chip", Tile, true, "@ r9, r0, 0, 1", "no chip 1");
    t.case(&["net.put", "net.get"], outside, Tile, true, "@ r0, r5, r2, r4", past);
    t.case(&["net.bcast"], outside, Tile, true, "@ r9, r5, r2, r4", past);
    t.case(&["net.put", "net.get"], "len 0", Tile, true, "@ r0, r1, r2, r0", "len is 0");
    t.case(&["net.bcast"], "len 0", Tile, true, "@ r9, r1, r2, r0", "len is 0");
    let chips = "mask 0 or names a chip that does not exist";
    t.case(&["net.bcast"], chips, Tile, true, "@ r0, r1, r2, r3", "mask is 0");
    t.case(&["net.bcast"], chips, Tile, true, "@ r3, r1, r2, r3", "mask 0x3 names a chip that does not exist: there are 1");
    t.case(&["net.signal"], unit, Tile, true, "@ r0, r3, 0, 1", "no unit has number 0x3");
    let overflow = fill("net.signal r0, r0, 1, 255");
    t.case(&["net.signal"], "semaphore overflow at arrival", Tile, true, &overflow, "semaphore 1 of tile 0 overflows");
    t.case(&["net.signal"], index, Tile, true, "@ r0, r0, 255, 1", &count);
    // Kernels.
    let tsram = "address outside the own TSRAM";
    t.case(&["vld", "vst"], tsram, Kernel, true, "@.f32 v1, 0(s5)", past);
    t.case(&["vld", "vst"], tsram, Kernel, true, "@.f32 v1, 0(s2)", "is in hbm, not in the own tsram");
    t.case(&["vldb"], tsram, Kernel, true, "@.f32 v1, 13(s5)", past);
    t.case(&["vlds", "vsts"], tsram, Kernel, true, "@.f32 v1, 0(s1), s2\n@.f32 v1, 0(s5), s3", past);
    t.case(&["vlds", "vsts"], tsram, Kernel, true, "sli s6, -4\n@.f32 v1, 0(s1), s6", "before its start");
    t.case(&["vcvt"], "group 1 of a 32-bit type", Kernel, true, "vcvt.f32.bf16 v1, v2, 1, 0", "group 1 of f32");
    t.case(&["vcvt"], "group 1 of a 32-bit type", Kernel, true, "vcvt.bf16.i32 v1, v2, 0, 1", "group 1 of i32");
    let loop_target = "target not after the loop or outside the kernel";
    t.case(&["loop"], loop_target, Kernel, true, "vmov v1, v1\nloop s3, -1", "not after the loop and inside the kernel");
    t.case(&["loop"], loop_target, Kernel, true, "loop s3, 50", "not after the loop and inside the kernel");
    let depth = chip().tvp.loop_depth as usize;
    let deep = format!("{}vmov v1, v1\nend:\nvmov v1, v1", "loop s3, end\n".repeat(depth + 1));
    t.case(&["loop"], "nested deeper than tvp.loop_depth", Kernel, true, &deep, "deeper than tvp.loop_depth");
    let crossed = "loop s3, in\nloop s3, out\nvmov v1, v1\nin:\nvmov v1, v1\nout:\nvmov v1, v1";
    t.case(&["loop"], "body not nested in the outer loop's body", Kernel, true, crossed, "past the end of the outer loop");

    let all: BTreeSet<(&str, &str)> = INFO
        .iter()
        .flat_map(|i| i.traps.iter().map(|t| (i.name, *t)))
        .collect();
    let missing: Vec<_> = all.difference(&t.covered).collect();
    assert!(missing.is_empty(), "traps without a case: {missing:#?}");
}

/// The traps that have had a case.
#[derive(Default)]
struct Cases {
    covered: BTreeSet<(&'static str, &'static str)>,
}

impl Cases {
    /// The program with `@` standing for each name ends with the message, at an instruction of that name.
    fn case(&mut self, names: &[&str], trap: &str, at: At, data: bool, lines: &str, message: &str) {
        for name in names {
            let text = self.case_of(name, trap, at, data, &lines.replace('@', name), message);
            let clause = ["dim", "mcast", "gather", "signal.dest"].contains(name);
            assert!(clause || mnemonic(&text).starts_with(name), "{name}, {trap}: {text}");
        }
    }

    /// As [`Cases::case`], where another instruction is to blame.
    fn case_of(&mut self, name: &str, trap: &str, at: At, data: bool, lines: &str, message: &str) -> String {
        let mut machine = load_on(few_semaphores(), &program(at, lines), data).unwrap();
        let Err(error) = run_machine(&mut machine, 0) else {
            panic!("{name}, {trap}: no error");
        };
        let text = error.to_string();
        assert!(text.contains(message), "{name}, {trap}: {text}");
        assert!(text.starts_with("tile 0, t.s:"), "{name}, {trap}: {text}");
        assert_eq!(error.exit_code(), 1);
        let info = INFO.iter().find(|i| i.name == name).unwrap();
        let named = info.traps.iter().find(|t| **t == trap);
        let named = named.unwrap_or_else(|| panic!("{name} does not name the trap {trap}"));
        self.covered.insert((info.name, named));
        text
    }
}

/// A chip on which an index of 8 bits can name a semaphore that does not exist.
fn few_semaphores() -> Arc<Chip> {
    let mut chip = Chip::preset("mini").unwrap();
    chip.set("semaphores.count=64").unwrap();
    Arc::new(chip)
}

#[test]
fn processors_have_their_own_instructions() {
    for (processor, line) in [
        ("cluster", "mm.load r0, r0, r1, r1, r1"),
        ("cluster", "mm.store.f32 r0, r0, r1, r1, r1"),
        ("cluster", "mm.new.e4m3.e4m3.mk.kn r0, r0, r0, r1, r1, r1, r1, r1"),
        ("cluster", "vrun k, r0, 0"),
        ("chip", "vrun k, r0, 0"),
        ("chip", "dma.u8.u8 0, r0, r0, r1"),
        ("chip", "lbu r2, 0(r0)"),
        ("chip", "sb r2, 0(r0)"),
    ] {
        let text = format!(".kernel k\n vret\n.{processor}\n li r1, 4\n {line}\n halt\n");
        let error = failure(&text, true).to_string();
        let message = format!("not available on the {processor} processor");
        assert!(error.ends_with(&message), "{processor} {line}: {error}");
    }
}

#[test]
fn programs_and_kernels_must_end() {
    let error = failure(".tile\n addi r1, r1, 1\n", true).to_string();
    assert!(error.contains("the program ends at word 1 without `halt`"), "{error}");
    let kernel = |body: &str| format!(".kernel k\n{body}\n.tile\n li r1, 0x7fffffffffff\n vrun k, r1, 1\n halt\n");
    let error = failure(&kernel(" loop s2, 2\n vret"), true).to_string();
    assert!(error.contains("t.s:3 `vret`: the kernel ends without `vret`"), "{error}");
    let error = failure(&kernel(" loop s1, end\n saddi s2, s2, 1\nend:\n vret"), true).to_string();
    assert!(error.contains("the kernel ran 268435456 instructions without ending"), "{error}");
}
