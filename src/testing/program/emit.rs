//! Plans as assembly.
//!
//! Models: for each unit a straight program with a loop for each repeated segment; edges as wait clauses or waits of the
//! processor, and as signals of all kinds; when an operation has more to tell than it may have clauses, a processor is
//! told and posts the rest. Leaves out: any optimisation. Invariants: a unit's code follows the order of the plan; every
//! edge has a semaphore of its own at the unit that waits, so that no one else can take its tokens.
//!
//! Registers: r1 to r17 operands, r18 and r19 synchronisation, r20 the round, r21 the rounds, r22 to r29 the random arithmetic.

use super::Program;
use super::depend::{Edge, edges, operations};
use super::op::{Action, BUFFER, BUFFERS, NetKind, Op, Place, Ref, TABLE};
use crate::machine::op::UnitId;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Registers that random arithmetic works on.
const STATE: std::ops::Range<u64> = 22..30;

/// Code of a unit in a segment.
#[derive(Default, Clone)]
struct Code {
    /// Before the loop.
    before: String,
    /// Of each round.
    body: String,
}

macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{
        let _ = writeln!($out, "    {}", format_args!($($arg)*));
    }};
}

/// A signal of an operation: what it says and to whom.
enum Signal {
    /// To every unit that the transfer writes.
    Dest(u64),
    /// To the tiles of a mask.
    Tiles(u64, u64),
    /// To a unit.
    Unit(UnitId, u64),
}

struct Emitter<'a> {
    program: &'a Program,
    units: BTreeMap<u64, Vec<Code>>,
    /// Semaphores in use, by unit.
    semaphores: BTreeMap<u64, u64>,
}

/// The text of a program.
pub(super) fn text(program: &Program) -> String {
    let ops = operations(program);
    let edges = edges(program);
    let shape = program.shape;
    let tiles = (0..shape.tiles()).map(UnitId::Tile);
    let clusters = (0..shape.clusters).map(UnitId::Cluster);
    let all: Vec<UnitId> = tiles.chain(clusters).chain([UnitId::Chip]).collect();
    let blank = vec![Code::default(); program.segments.len()];
    let mut e = Emitter {
        program,
        units: all.iter().map(|u| (u.code(), blank.clone())).collect(),
        semaphores: all.iter().map(|u| (u.code(), 0)).collect(),
    };
    let plans: Vec<_> = ops
        .iter()
        .enumerate()
        .map(|(i, (_, op))| e.signals(i, op, &ops, &edges))
        .collect();
    // The semaphore that an edge's end waits on.
    let of_edge: BTreeMap<usize, u64> = plans.iter().flat_map(|p| p.1.iter().copied()).collect();
    for (i, (segment, op)) in ops.iter().enumerate() {
        let incoming = edges.iter().enumerate().filter(|(_, e)| e.to == i);
        let mut waits = Vec::new();
        for (index, edge) in incoming {
            let sem = of_edge[&index];
            let from = ops[edge.from].0;
            let rounds = program.segments[from].rounds;
            let own = op.unit.code();
            if edge.carried {
                let before = &mut e.code(op.unit, *segment).before;
                line!(before, "li r18, {own:#x}");
                line!(before, "sem.post r18, {sem}, 1");
                waits.push((sem, 1));
            } else if from == *segment {
                waits.push((sem, 1));
            } else if program.segments[*segment].rounds == 1 {
                waits.push((sem, rounds));
            } else {
                let before = &mut e.code(op.unit, *segment).before;
                line!(before, "sem.wait {sem}, {rounds}");
            }
        }
        e.operation(i, *segment, op, &waits, &plans[i].0);
    }
    e.finish(&all, &ops)
}

impl Emitter<'_> {
    fn code(&mut self, unit: UnitId, segment: usize) -> &mut Code {
        let segments = self.units.entry(unit.code()).or_default();
        if segments.len() <= segment {
            segments.resize(segment + 1, Code::default());
        }
        &mut segments[segment]
    }

    /// A semaphore that is free in all of these units.
    fn semaphore(&mut self, units: &[UnitId]) -> u64 {
        let next = |u: &UnitId| self.semaphores.get(&u.code()).copied().unwrap_or(0);
        let sem = units.iter().map(next).max().unwrap_or(0);
        for unit in units {
            self.semaphores.insert(unit.code(), sem + 1);
        }
        sem
    }

    /// The signals of an operation, and the semaphore of each of its edges.
    fn signals(
        &mut self,
        i: usize,
        op: &Op,
        ops: &[(usize, &Op)],
        edges: &[Edge],
    ) -> (Vec<Signal>, Vec<(usize, u64)>) {
        let mut left: Vec<(usize, UnitId)> = edges
            .iter()
            .enumerate()
            .filter(|(_, e)| e.from == i)
            .map(|(index, e)| (index, ops[e.to].1.unit))
            .collect();
        let (mut signals, mut found) = (Vec::new(), Vec::new());
        // One edge to each unit whose SRAM the transfer fills.
        let mut told: Vec<UnitId> = Vec::new();
        let at_arrival = |(index, unit): &(usize, UnitId), told: &mut Vec<UnitId>| {
            let first = edges[*index].at_arrival && !told.contains(unit);
            if first {
                told.push(*unit);
            }
            first
        };
        let (arrivals, rest): (Vec<_>, Vec<_>) =
            left.iter().copied().partition(|e| at_arrival(e, &mut told));
        let room = self.program.clauses > 1 || rest.is_empty();
        if op.style & 8 != 0 && room && !arrivals.is_empty() {
            let destinations = op
                .destinations()
                .into_iter()
                .filter_map(|place| match place {
                    Place::Tsram(t) => Some(UnitId::Tile(t)),
                    Place::Csram(c) => Some(UnitId::Cluster(c)),
                    Place::Hbm => None,
                });
            let sem = self.semaphore(&destinations.collect::<Vec<_>>());
            signals.push(Signal::Dest(sem));
            found.extend(arrivals.iter().map(|(index, _)| (*index, sem)));
            left = rest;
        }
        // One edge to each of several tiles.
        let mut tiles: Vec<(usize, UnitId)> = Vec::new();
        for edge in &left {
            if matches!(edge.1, UnitId::Tile(_)) && tiles.iter().all(|t| t.1 != edge.1) {
                tiles.push(*edge);
            }
        }
        if op.style & 4 != 0 && tiles.len() > 1 && op.serial() != super::op::Serial::Processor {
            let units: Vec<UnitId> = tiles.iter().map(|t| t.1).collect();
            let sem = self.semaphore(&units);
            let mask = units.iter().fold(0, |m, u| m | 1 << u.code());
            signals.push(Signal::Tiles(mask, sem));
            found.extend(tiles.iter().map(|t| (t.0, sem)));
            left.retain(|e| !tiles.contains(e));
        }
        for (index, unit) in left {
            let sem = self.semaphore(&[unit]);
            signals.push(Signal::Unit(unit, sem));
            found.push((index, sem));
        }
        (signals, found)
    }

    fn operation(
        &mut self,
        i: usize,
        segment: usize,
        op: &Op,
        waits: &[(u64, u64)],
        signals: &[Signal],
    ) {
        let clauses = self.program.clauses;
        let mut text = String::new();
        let _ = writeln!(text, "    # operation {i}");
        if let Action::Table { .. } | Action::Scalar(_) = op.action {
            for (sem, n) in waits {
                line!(text, "sem.wait {sem}, {n}");
            }
            self.processor_work(i, op, &mut text);
            self.code(op.unit, segment).body += &text;
            self.posts(op.unit, segment, signals);
            return;
        }
        // Waits of the operation itself, up to what it may have or none; the processor takes the rest.
        let own_waits = if op.style & 1 == 0 { clauses } else { 0 };
        let (clause_waits, processor_waits) = waits.split_at(waits.len().min(own_waits));
        for (sem, n) in processor_waits {
            line!(text, "sem.wait {sem}, {n}");
        }
        let dims = self.operands(op, &mut text);
        for (sem, n) in clause_waits {
            match op.style & 64 {
                0 => line!(text, "wait {sem}, {n}"),
                _ => {
                    line!(text, "li r19, {sem}");
                    line!(text, "wait 0(r19), {n}");
                }
            }
        }
        let direct = match signals.len() <= clauses {
            true => signals.len(),
            false => clauses - 1,
        };
        for signal in &signals[..direct] {
            self.clause(op, signal, &mut text);
        }
        let rest = &signals[direct..];
        let relay = match op.style >> 4 & 3 {
            1 => UnitId::Chip,
            2 => UnitId::Cluster(0),
            _ => op.unit,
        };
        let mut token = 0;
        if !rest.is_empty() {
            token = self.semaphore(&[relay]);
            self.clause(op, &Signal::Unit(relay, token), &mut text);
        }
        text += &dims;
        self.code(op.unit, segment).body += &text;
        if !rest.is_empty() {
            let body = &mut self.code(relay, segment).body;
            line!(body, "sem.wait {token}, 1    # operation {i} is done");
            self.posts(relay, segment, rest);
        }
    }

    fn clause(&self, op: &Op, signal: &Signal, out: &mut String) {
        match signal {
            Signal::Dest(sem) => line!(out, "signal.dest {sem}, 1"),
            Signal::Tiles(mask, sem) => {
                line!(out, "li r18, {mask:#b}");
                line!(out, "signal.tiles r18, {sem}, 1");
            }
            Signal::Unit(unit, sem) if *unit == op.unit && op.style & 2 == 0 => {
                line!(out, "signal {sem}, 1");
            }
            Signal::Unit(unit, sem) => {
                line!(out, "li r18, {:#x}", unit.code());
                line!(out, "signal.unit r18, {sem}, 1");
            }
        }
    }

    /// The processor of `unit` makes signals itself.
    fn posts(&mut self, unit: UnitId, segment: usize, signals: &[Signal]) {
        let body = &mut self.code(unit, segment).body;
        let mut post = |to: u64, sem: u64| {
            line!(body, "li r18, {to:#x}");
            line!(body, "sem.post r18, {sem}, 1");
        };
        for signal in signals {
            match signal {
                Signal::Unit(to, sem) => post(to.code(), *sem),
                Signal::Tiles(mask, sem) => {
                    (0..64)
                        .filter(|t| mask >> t & 1 == 1)
                        .for_each(|t| post(t, *sem));
                }
                // Arrival is always the first signal, and direct.
                Signal::Dest(_) => {}
            }
        }
    }

    fn processor_work(&self, i: usize, op: &Op, out: &mut String) {
        match &op.action {
            Action::Table { mul, add } => {
                line!(out, "li r1, {}", own_name(op, "table"));
                line!(out, "li r2, {add}");
                line!(out, "li r3, {TABLE}");
                let _ = writeln!(out, "table_{i}:");
                line!(out, "andi r4, r2, 7");
                line!(out, "sw r4, 0(r1)");
                line!(out, "addi r1, r1, 4");
                line!(out, "addi r2, r2, {mul}");
                line!(out, "dec r3");
                line!(out, "bnez r3, table_{i}");
            }
            Action::Scalar(insts) => insts.iter().for_each(|inst| line!(out, "{inst}")),
            _ => {}
        }
    }

    /// Loads operand registers into `out`; gives the lines that must stand behind the clauses, the operation last.
    fn operands(&self, op: &Op, out: &mut String) -> String {
        let own = op.style & 128 == 0;
        let mut next = 1;
        let mut value = |out: &mut String, text: String| {
            line!(out, "li r{next}, {text}");
            next += 1;
            next - 1
        };
        let address = |out: &mut String, r: &Ref, register: u64| {
            if r.step > 0 {
                line!(out, "muli r18, r20, {}", r.step);
                line!(out, "add r{register}, r{register}, r18");
            }
        };
        let mut tail = String::new();
        let tail = &mut tail;
        match &op.action {
            Action::Move {
                channel,
                shape,
                src,
                dst,
                mcast,
            } => {
                let (mut first_dst, mut first_src) = (0, 0);
                for dim in shape.dims.iter().filter(|d| d.reversed) {
                    first_dst += (dim.count - 1) * dim.dst;
                    first_src += (dim.count - 1) * dim.src;
                }
                let d = value(out, format!("{} + {first_dst}", name(op, dst, own)));
                let s = value(out, format!("{} + {first_src}", name(op, src, own)));
                address(out, dst, d);
                address(out, src, s);
                let len = value(out, shape.len.to_string());
                for dim in &shape.dims {
                    let sign = if dim.reversed { "-" } else { "" };
                    let count = value(out, dim.count.to_string());
                    let ds = value(out, format!("{sign}{}", dim.dst));
                    let ss = value(out, format!("{sign}{}", dim.src));
                    line!(tail, "dim r{count}, r{ds}, r{ss}");
                }
                if shape.gather {
                    let table = value(out, own_name(op, "table"));
                    let outer = shape.dims.first().map_or(0, |d| d.src);
                    let stride = value(out, outer.to_string());
                    line!(tail, "gather r{table}, r{stride}");
                }
                if *mcast != 0 {
                    let mask = value(out, format!("{mcast:#b}"));
                    line!(tail, "mcast r{mask}");
                }
                let [from, to] = shape.types;
                let Some(q) = &shape.quantised else {
                    line!(tail, "dma.{from}.{to} {channel}, r{d}, r{s}, r{len}");
                    return std::mem::take(tail);
                };
                let scales = value(out, name(op, &q.scales, own));
                address(out, &q.scales, scales);
                let [ld, global] =
                    [q.ld.to_string(), "float(0.01)".to_owned()].map(|v| value(out, v));
                line!(
                    tail,
                    "dma.q.{}.{from}.{to} {channel}, r{d}, r{s}, r{len}, r{scales}, r{ld}, r{global}",
                    q.rule
                );
            }
            Action::Transpose {
                channel,
                types,
                rows,
                cols,
                lds,
                src,
                dst,
                mcast,
            } => {
                let d = value(out, name(op, dst, own));
                let s = value(out, name(op, src, own));
                address(out, dst, d);
                address(out, src, s);
                let [rows, cols, dld, sld] =
                    [*rows, *cols, lds[0], lds[1]].map(|v| value(out, v.to_string()));
                if *mcast != 0 {
                    let mask = value(out, format!("{mcast:#b}"));
                    line!(tail, "mcast r{mask}");
                }
                let [from, to] = types;
                line!(
                    tail,
                    "dma.t.{from}.{to} {channel}, r{d}, r{s}, r{rows}, r{cols}, r{dld}, r{sld}"
                );
            }
            Action::Net {
                kind,
                len,
                src,
                dst,
            } => {
                let d = value(out, name(op, dst, own));
                let s = value(out, name(op, src, own));
                address(out, dst, d);
                address(out, src, s);
                let len = value(out, len.to_string());
                match kind {
                    NetKind::Put => line!(tail, "net.put r0, r{d}, r{s}, r{len}"),
                    NetKind::Get => line!(tail, "net.get r0, r{d}, r{s}, r{len}"),
                    NetKind::Bcast => {
                        let chips = value(out, "1".to_owned());
                        line!(tail, "net.bcast r{chips}, r{d}, r{s}, r{len}");
                    }
                }
            }
            Action::Product {
                new,
                types,
                turned,
                acc,
                mnk,
                lds,
                a,
                b,
                scales,
            } => {
                let acc = value(out, acc.to_string());
                let [ra, rb] = [a, b].map(|r| {
                    let register = value(out, name(op, r, own));
                    address(out, r, register);
                    register
                });
                let [m, n, k] = mnk.map(|v| value(out, v.to_string()));
                let [lda, ldb] = lds.map(|v| value(out, v.to_string()));
                if let Some(scales) = scales {
                    let [x, y] = scales.each_ref().map(|s| {
                        let register = value(out, name(op, &s.at, own));
                        address(out, &s.at, register);
                        (register, value(out, s.ld.to_string()))
                    });
                    let [ka, kb] = scales.each_ref().map(|s| s.kind);
                    line!(
                        tail,
                        "mm.scale.{ka}.{kb} r{}, r{}, r{}, r{}",
                        x.0,
                        x.1,
                        y.0,
                        y.1
                    );
                }
                let mode = if *new { "new" } else { "acc" };
                let oa = if turned[0] { "km" } else { "mk" };
                let ob = if turned[1] { "nk" } else { "kn" };
                let [ta, tb] = types;
                line!(
                    tail,
                    "mm.{mode}.{ta}.{tb}.{oa}.{ob} r{acc}, r{ra}, r{rb}, r{m}, r{n}, r{k}, r{lda}, r{ldb}"
                );
            }
            Action::Preload {
                acc,
                mn,
                ld,
                src: at,
            }
            | Action::Store {
                acc,
                mn,
                ld,
                dst: at,
                ..
            } => {
                let acc = value(out, acc.to_string());
                let r = value(out, name(op, at, own));
                address(out, at, r);
                let [m, n, ld] = [mn[0], mn[1], *ld].map(|v| value(out, v.to_string()));
                let what = match &op.action {
                    Action::Store { dtype, .. } => format!("mm.store.{dtype}"),
                    _ => "mm.load".to_owned(),
                };
                line!(tail, "{what} r{acc}, r{r}, r{m}, r{n}, r{ld}");
            }
            Action::Launch {
                kernel,
                count,
                src,
                dst,
            } => {
                let s = value(out, name(op, src, true));
                let d = value(out, name(op, dst, true));
                address(out, src, s);
                address(out, dst, d);
                value(out, count.to_string());
                line!(tail, "vrun kernel_{kernel}, r{s}, 3");
            }
            Action::Table { .. } | Action::Scalar(_) => {}
        }
        std::mem::take(tail)
    }

    fn finish(mut self, all: &[UnitId], ops: &[(usize, &Op)]) -> String {
        let shape = self.program.shape;
        let mut out = String::new();
        let _ = writeln!(
            out,
            "# run with --chip mini --set clusters={} --set tiles_per_cluster={}",
            shape.clusters, shape.tiles_per_cluster
        );
        tensors(&mut out);
        for (section, kind) in [
            (".tile", "tile"),
            (".cluster", "cluster"),
            (".chip", "chip"),
        ] {
            let units = all
                .iter()
                .copied()
                .filter(|u| crate::machine::place::kind_name(*u) == kind);
            let units: Vec<(UnitId, String)> = units
                .map(|u| (u, self.unit(u, ops)))
                .filter(|(_, text)| !text.is_empty())
                .collect();
            if units.is_empty() && kind != "tile" {
                continue;
            }
            let _ = writeln!(out, "{section}");
            if kind != "chip" {
                line!(out, "rdsr r1, {kind}");
                for (unit, _) in &units {
                    line!(out, "li r2, {}", unit.code() & 0xff);
                    line!(out, "beq r1, r2, {}", label(*unit));
                }
                line!(out, "halt");
            }
            for (unit, text) in units {
                let _ = writeln!(out, "{}:", label(unit));
                out += &text;
                line!(out, "halt");
            }
        }
        for (i, kernel) in self.program.kernels.iter().enumerate() {
            out += &kernel.text(&format!("kernel_{i}"));
        }
        out
    }

    /// The program of a unit; empty if it does nothing.
    fn unit(&mut self, unit: UnitId, ops: &[(usize, &Op)]) -> String {
        let mut out = String::new();
        let segments = self.units.remove(&unit.code()).unwrap_or_default();
        for (s, part) in segments.iter().enumerate() {
            out += &part.before;
            let rounds = self.program.segments[s].rounds;
            if rounds == 1 || part.body.is_empty() {
                out += &part.body;
                continue;
            }
            line!(out, "li r20, 0");
            line!(out, "li r21, {rounds}");
            let _ = writeln!(out, "round_{}_{s}:", label(unit));
            out += &part.body;
            line!(out, "inc r20");
            line!(out, "blt r20, r21, round_{}_{s}", label(unit));
        }
        let scalar = ops
            .iter()
            .find(|(_, op)| op.unit == unit && matches!(op.action, Action::Scalar(_)));
        if let Some((_, op)) = scalar {
            line!(out, "li r1, {}", own_name(op, "state"));
            for r in STATE {
                line!(out, "sd r{r}, {}(r1)", (r - STATE.start) * 8);
            }
        }
        out
    }
}

fn label(unit: UnitId) -> String {
    match unit {
        UnitId::Tile(t) => format!("tile_{t}"),
        UnitId::Cluster(c) => format!("cluster_{c}"),
        UnitId::Chip => "the_chip".to_owned(),
    }
}

/// The name of a tensor that every unit has in its own SRAM.
fn own_name(op: &Op, name: &str) -> String {
    match op.unit {
        UnitId::Tile(_) => format!("t_{name}"),
        UnitId::Cluster(_) | UnitId::Chip => format!("c_{name}"),
    }
}

/// The address of a reference in round 0: as the own SRAM, if it is and `own` is set, else by the unit's number.
fn name(op: &Op, r: &Ref, own: bool) -> String {
    let Ref { buffer, offset, .. } = r;
    let own = own && r.place == op.own();
    match r.place {
        Place::Hbm => format!("h{buffer} + {offset}"),
        Place::Csram(_) if own => format!("c{buffer} + {offset}"),
        Place::Tsram(_) if own => format!("t{buffer} + {offset}"),
        Place::Csram(c) => format!("c{buffer} - OWN_CSRAM + CSRAM + ({c} << 32) + {offset}"),
        Place::Tsram(t) => format!("t{buffer} - OWN_TSRAM + TSRAM + ({t} << 32) + {offset}"),
    }
}

fn tensors(out: &mut String) {
    let _ = writeln!(
        out,
        ".equ OWN_CSRAM, 3 << 40\n.equ CSRAM, 1 << 40\n.equ OWN_TSRAM, 4 << 40\n.equ TSRAM, 2 << 40"
    );
    for (letter, space) in [("h", "hbm"), ("c", "csram"), ("t", "tsram")] {
        for buffer in 0..BUFFERS {
            let (dtype, size) = [("f32", 4), ("bf16", 2), ("e4m3", 1)][buffer as usize % 3];
            let _ = writeln!(
                out,
                ".tensor {letter}{buffer}, {space}, {dtype}, [{}], payload, normal({buffer})",
                BUFFER / size
            );
        }
        if space != "hbm" {
            let _ = writeln!(
                out,
                ".tensor {letter}_table, {space}, i32, [{TABLE}], control, values(3, 0, 7, 1, 1, 6, 2, 5)"
            );
            let state = (STATE.end - STATE.start) * 2;
            let _ = writeln!(
                out,
                ".tensor {letter}_state, {space}, i32, [{state}], control, zero"
            );
        }
    }
}
