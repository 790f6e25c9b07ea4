//! Trace folders: a recorded run on disk.
//!
//! Models: three files. `meta.json` holds the facts of the run, the engines with their sums, the listing of the program, and
//! length, count and checksum of the other two; `spans.bin` and `ops.bin` hold records of LEB128 numbers, relative to the
//! record before (a span takes about seven bytes). Leaves out: other tools' formats ([`super::export`]). Invariants:
//! `meta.json` is written last, so that an interrupted run leaves no readable folder; reading checks lengths, checksums
//! and every index, so that a [`Recording`] refers to nothing it does not hold; reading takes memory in proportion to the
//! files, which may have at most [`LIMIT_BYTES`].

use super::{Account, EngineId, Op, Reason, Span, Trace};
use crate::isa::image::{Image, Processor, Section};
use crate::isa::text;
use crate::sim::Ps;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Largest file of a folder that is read.
pub const LIMIT_BYTES: u64 = 4 << 30;

const FORMAT: &str = "tilewright-trace";
const VERSION: u32 = 1;

/// A folder that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The host refused.
    #[error("{}: {error}", path.display())]
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
    /// The content is bad.
    #[error("{}: {problem}", path.display())]
    Content { path: PathBuf, problem: String },
}

/// One instruction word of a program, as tables name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Index into [`Listing::files`].
    pub file: u32,
    /// Line, from 1; 0 if unknown.
    pub line: u32,
    /// The instruction.
    pub text: String,
}

/// Source lines and texts of the control programs, by word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Source files.
    pub files: Vec<String>,
    /// Program of the tiles.
    pub tile: Vec<Word>,
    /// Program of the cluster processors.
    pub cluster: Vec<Word>,
    /// Program of the chip processor.
    pub chip: Vec<Word>,
}

impl Listing {
    /// The listing of a program.
    pub fn new(image: &Image) -> Listing {
        let words = |section: &Section| {
            let pairs = section.insts.iter().zip(&section.lines);
            pairs
                .map(|(inst, line)| Word {
                    file: line.file,
                    line: line.line,
                    text: text::print(inst, &text::ProgramNames(image)),
                })
                .collect()
        };
        Listing {
            files: image.files.clone(),
            tile: words(image.program(Processor::Tile)),
            cluster: words(image.program(Processor::Cluster)),
            chip: words(image.program(Processor::Chip)),
        }
    }

    /// The word at `pc` of the program that the unit of this number runs.
    pub fn word(&self, unit: u16, pc: u32) -> Option<&Word> {
        let program = match unit {
            0..0x100 => &self.tile,
            0x100..0x200 => &self.cluster,
            _ => &self.chip,
        };
        program.get(pc as usize)
    }

    /// `file:line` of a word, if known.
    pub fn place(&self, word: &Word) -> Option<String> {
        let file = self.files.get(word.file as usize)?;
        (word.line > 0).then(|| format!("{file}:{}", word.line))
    }
}

/// A recorded run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// What the engines did.
    pub trace: Trace,
    /// The program.
    pub listing: Listing,
}

/// Length, records and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    bytes: u64,
    records: u64,
    fnv1a: u64,
}

impl Part {
    fn of(bytes: &[u8], records: u64) -> Part {
        Part {
            bytes: bytes.len() as u64,
            records,
            fnv1a: fnv1a(bytes),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Meta {
    format: String,
    version: u32,
    /// Names of the reason codes in the binary files.
    reasons: Vec<String>,
    end_ps: u64,
    meta: serde_json::Map<String, serde_json::Value>,
    engines: Vec<EngineId>,
    /// Per engine, picoseconds by reason code.
    sums_ps: Vec<Vec<u64>>,
    spans: Part,
    ops: Part,
    listing: Listing,
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn span_bytes(spans: &[Span]) -> Vec<u8> {
    let mut out = Vec::with_capacity(spans.len() * 8);
    let (mut engine, mut last) = (0u32, 0u64);
    for s in spans {
        put_signed(&mut out, i64::from(s.engine) - i64::from(engine));
        if s.engine != engine {
            last = 0;
        }
        out.push(s.reason as u8);
        put_signed(&mut out, s.from.0.wrapping_sub(last) as i64);
        put(&mut out, s.to.0.saturating_sub(s.from.0));
        (engine, last) = (s.engine, s.to.0);
    }
    out
}

fn op_bytes(ops: &[Op]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ops.len() * 32);
    let (mut engine, mut last) = (0u32, 0u64);
    for op in ops {
        put_signed(&mut out, i64::from(op.engine) - i64::from(engine));
        put(&mut out, u64::from(op.pc));
        put_signed(&mut out, op.pushed.0.wrapping_sub(last) as i64);
        put(&mut out, op.milestones.len() as u64);
        let mut before = op.pushed.0;
        for (reason, at) in &op.milestones {
            out.push(*reason as u8);
            put(&mut out, at.0.saturating_sub(before));
            before = at.0;
        }
        (engine, last) = (op.engine, op.pushed.0);
    }
    out
}

/// Writes a folder, creating it if need be. Files of an earlier trace in it are replaced.
pub fn write(dir: &Path, recording: &Recording) -> Result<(), TraceError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| TraceError::Io { path, error }
    };
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let meta_path = dir.join("meta.json");
    match std::fs::remove_file(&meta_path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&meta_path)(e)),
        _ => {}
    }
    let [meta, spans, ops] = encode(recording).map_err(|e| io(&meta_path)(e.into()))?;
    for (name, bytes) in [("spans.bin", spans), ("ops.bin", ops)] {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(io(&path))?;
    }
    let mut file = File::create(&meta_path).map_err(io(&meta_path))?;
    file.write_all(&meta).map_err(io(&meta_path))
}

/// The files of a folder: `meta.json`, `spans.bin` and `ops.bin`.
///
/// # Errors
/// Facts of the run that JSON cannot hold.
pub fn encode(recording: &Recording) -> serde_json::Result<[Vec<u8>; 3]> {
    let trace = &recording.trace;
    let sums = |a: &Account| a.sums.iter().map(|s| s.0).collect();
    let (spans, ops) = (span_bytes(&trace.spans), op_bytes(&trace.ops));
    let meta = Meta {
        format: FORMAT.to_owned(),
        version: VERSION,
        reasons: Reason::ALL.iter().map(|r| r.name().to_owned()).collect(),
        end_ps: trace.end.0,
        meta: trace.meta.clone(),
        engines: trace.engines.clone(),
        sums_ps: trace.accounts.iter().map(sums).collect(),
        spans: Part::of(&spans, trace.spans.len() as u64),
        ops: Part::of(&ops, trace.ops.len() as u64),
        listing: recording.listing.clone(),
    };
    Ok([serde_json::to_vec(&meta)?, spans, ops])
}

/// A `meta.json` with lengths and checksums that fit the other two files, if it is one at all: damage behind it is then met
/// by the readers of records.
#[cfg(any(test, feature = "testing"))]
pub fn with_checksums(meta: &[u8], spans: &[u8], ops: &[u8]) -> Vec<u8> {
    let Ok(mut facts) = serde_json::from_slice::<Meta>(meta) else {
        return meta.to_vec();
    };
    facts.spans = Part::of(spans, facts.spans.records);
    facts.ops = Part::of(ops, facts.ops.records);
    serde_json::to_vec(&facts).unwrap_or_else(|_| meta.to_vec())
}

/// Reads a folder that [`write()`] made.
pub fn read(dir: &Path) -> Result<Recording, TraceError> {
    decode(dir, |name| read_file(&dir.join(name)))
}

/// [`read`] of a folder whose files `bytes` gives by name; `dir` stands in errors.
///
/// # Errors
/// As [`read`].
pub fn decode(
    dir: &Path,
    bytes: impl Fn(&str) -> Result<Vec<u8>, TraceError>,
) -> Result<Recording, TraceError> {
    let path = dir.join("meta.json");
    let meta: Meta = serde_json::from_slice(&bytes("meta.json")?)
        .map_err(|e| content(&path, format!("not the facts of a trace: {e}")))?;
    if meta.format != FORMAT || meta.version != VERSION {
        return Err(content(
            &path,
            format!(
                "is `{}` version {}, wanted `{FORMAT}` version {VERSION}",
                meta.format, meta.version
            ),
        ));
    }
    let reasons = reasons(&path, &meta)?;
    if meta.sums_ps.len() != meta.engines.len() {
        let (sums, engines) = (meta.sums_ps.len(), meta.engines.len());
        return Err(content(&path, format!("{sums} sums for {engines} engines")));
    }
    let accounts = meta
        .sums_ps
        .iter()
        .map(|sums| account(&path, sums, &reasons, meta.end_ps))
        .collect::<Result<_, _>>()?;
    let file = |name: &str| Ok((dir.join(name), bytes(name)?));
    let spans = spans(file("spans.bin")?, &meta, &reasons)?;
    let ops = ops(file("ops.bin")?, &meta, &reasons)?;
    Ok(Recording {
        trace: Trace {
            meta: meta.meta,
            engines: meta.engines,
            accounts,
            spans,
            ops,
            end: Ps(meta.end_ps),
        },
        listing: meta.listing,
    })
}

fn content(path: &Path, problem: impl Into<String>) -> TraceError {
    TraceError::Content {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, TraceError> {
    let io = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => content(path, "not found: no folder of `run --trace`?"),
        _ => content(path, error.to_string()),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    let read = file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes);
    if read.map_err(io)? as u64 > LIMIT_BYTES {
        return Err(content(path, format!("larger than {LIMIT_BYTES} bytes")));
    }
    Ok(bytes)
}

/// The reasons by code of the file.
fn reasons(path: &Path, meta: &Meta) -> Result<Vec<Reason>, TraceError> {
    let find = |name: &String| {
        let reason = Reason::ALL.into_iter().find(|r| r.name() == name);
        reason.ok_or_else(|| content(path, format!("no reason is called `{name}`")))
    };
    meta.reasons.iter().map(find).collect()
}

fn account(path: &Path, sums: &[u64], reasons: &[Reason], end: u64) -> Result<Account, TraceError> {
    // A sum past 64 bits is none of `end`; two codes may have the same name, so the sums of a reason may add up to it.
    let total = sums.iter().try_fold(0u64, |t, s| t.checked_add(*s));
    if sums.len() > reasons.len() || total != Some(end) {
        let problem = format!(
            "an engine's {} sums add up to {} of {end} ps",
            sums.len(),
            total.map_or("more than 64 bits".to_owned(), |t| t.to_string())
        );
        return Err(content(path, problem));
    }
    let mut account = Account::new(Reason::Idle);
    for (reason, sum) in reasons.iter().zip(sums) {
        account.sums[*reason as usize] += Ps(*sum);
    }
    account.last = Ps(end);
    Ok(account)
}

/// A reader of records; every failure names the byte.
struct Records<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    reasons: &'a [Reason],
}

impl<'a> Records<'a> {
    fn open(
        path: &'a Path,
        part: Part,
        bytes: &'a [u8],
        reasons: &'a [Reason],
    ) -> Result<Records<'a>, TraceError> {
        if bytes.len() as u64 != part.bytes {
            let what = match (bytes.len() as u64) < part.bytes {
                true => "truncated",
                false => "too long",
            };
            let problem = format!("{what}: {} bytes, wanted {}", bytes.len(), part.bytes);
            return Err(content(path, problem));
        }
        if fnv1a(bytes) != part.fnv1a {
            return Err(content(path, "checksum differs: the file was changed"));
        }
        Ok(Records {
            path,
            bytes,
            at: 0,
            reasons,
        })
    }

    fn fail(&self, problem: &str) -> TraceError {
        content(self.path, format!("byte {}: {problem}", self.at))
    }

    fn byte(&mut self) -> Result<u8, TraceError> {
        let byte = self.bytes.get(self.at).copied();
        let byte = byte.ok_or_else(|| self.fail("the records end early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, TraceError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.fail("a number of more than 64 bits"))
    }

    fn signed(&mut self) -> Result<i64, TraceError> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn reason(&mut self) -> Result<Reason, TraceError> {
        let code = self.byte()?;
        let reason = self.reasons.get(usize::from(code)).copied();
        reason.ok_or_else(|| self.fail(&format!("no reason has code {code}")))
    }

    fn engine(&mut self, before: u32, count: usize) -> Result<u32, TraceError> {
        let engine = i64::from(before).checked_add(self.signed()?);
        engine
            .and_then(|e| u32::try_from(e).ok())
            .filter(|e| (*e as usize) < count)
            .ok_or_else(|| self.fail(&format!("an engine past the {count} of the trace")))
    }

    fn time(&mut self, before: u64, delta: i64, end: u64) -> Result<u64, TraceError> {
        let time = before.checked_add_signed(delta).filter(|t| *t <= end);
        time.ok_or_else(|| self.fail(&format!("a time past the end of the run, {end} ps")))
    }

    fn later(&mut self, before: u64, end: u64) -> Result<u64, TraceError> {
        let delta = self.number()?;
        let time = before.checked_add(delta).filter(|t| *t <= end);
        time.ok_or_else(|| self.fail(&format!("a time past the end of the run, {end} ps")))
    }

    fn done(&self, records: usize, part: Part) -> Result<(), TraceError> {
        match records as u64 == part.records {
            true => Ok(()),
            false => Err(self.fail(&format!("{records} records, wanted {}", part.records))),
        }
    }
}

fn spans(
    (path, bytes): (PathBuf, Vec<u8>),
    meta: &Meta,
    reasons: &[Reason],
) -> Result<Vec<Span>, TraceError> {
    let mut r = Records::open(&path, meta.spans, &bytes, reasons)?;
    let mut spans = Vec::new();
    let (mut engine, mut last) = (0u32, 0u64);
    while r.at < bytes.len() {
        let next = r.engine(engine, meta.engines.len())?;
        if next != engine {
            last = 0;
        }
        engine = next;
        let reason = r.reason()?;
        let delta = r.signed()?;
        let from = r.time(last, delta, meta.end_ps)?;
        last = r.later(from, meta.end_ps)?;
        spans.push(Span {
            engine,
            reason,
            from: Ps(from),
            to: Ps(last),
        });
    }
    r.done(spans.len(), meta.spans)?;
    Ok(spans)
}

fn ops(
    (path, bytes): (PathBuf, Vec<u8>),
    meta: &Meta,
    reasons: &[Reason],
) -> Result<Vec<Op>, TraceError> {
    let mut r = Records::open(&path, meta.ops, &bytes, reasons)?;
    let mut ops = Vec::new();
    let (mut engine, mut last) = (0u32, 0u64);
    while r.at < bytes.len() {
        engine = r.engine(engine, meta.engines.len())?;
        let pc = u32::try_from(r.number()?).map_err(|_| r.fail("a word number past 32 bits"))?;
        let delta = r.signed()?;
        last = r.time(last, delta, meta.end_ps)?;
        let count = r.number()?;
        // Every milestone takes two bytes at least, so a count that lies ends at the end of the file.
        let mut milestones = Vec::new();
        let mut at = last;
        for _ in 0..count {
            let reason = r.reason()?;
            at = r.later(at, meta.end_ps)?;
            milestones.push((reason, Ps(at)));
        }
        ops.push(Op {
            engine,
            pc,
            pushed: Ps(last),
            milestones,
        });
    }
    r.done(ops.len(), meta.ops)?;
    Ok(ops)
}

#[cfg(test)]
#[path = "file_tests.rs"]
pub(super) mod tests;
