//! `bench stream`: its flags, and the table of bandwidth against chunk, streams and mapping.
//!
//! Models nothing: cells are compiled and run like any operation. Invariant: a cell is what `bench stream` with the same settings shows.

use super::progress::Progress;
use super::simulate::{self, DEFAULT_MAX_CYCLES};
use super::{CliError, Context, model};
use crate::chip::units::{self, Unit};
use crate::chip::{Chip, cost};
use crate::compiler::stream::{MAX_STREAMS, Split, Stream, Way};
use crate::compiler::{self, CompileError, Op};
use crate::timing::{self, TimedOptions};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rayon::prelude::*;
use serde_json::json;
use std::fmt::Write;
use std::sync::Arc;

/// Shown under `--help`.
pub const EXAMPLES: &str = "\
Examples:
  tilewright bench stream --op read --bytes 1GiB --no-data --set hbm.model=exact
  tilewright bench stream --op copy --bytes \"4 MiB\" --chunk 4KiB --streams 8 --check
  tilewright bench stream --table
";

/// Chunks, streams and mappings of the table. The mappings: a block in one row, bank group and bank xored with the row; the same without
/// the xors; a whole row, then pseudo channels; neighbouring bursts in different bank groups.
const CHUNK_SIZES: [u64; 5] = [256, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
const STREAMS: [u64; 4] = [1, 2, 4, 8];
const MAPPINGS: [&str; 4] = ["blocks", "M7", "M2", "M1"];
/// Streams of the table of mappings.
const MAPPING_STREAMS: u64 = 8;
/// Bytes that cross HBM's pins per tile: rounds of all its buffers, within bounds that keep start and end small and the table short.
const ROUNDS: u64 = 256;
const TILE_BYTES: (u64, u64) = (64 << 10, 3 << 20);

/// Every tile streams between HBM and its SRAM: what bandwidth is reached
///
/// A tile moves chunks, a transfer each, and keeps a number of buffers in flight. A copy goes from HBM to HBM and crosses its pins twice.
#[derive(clap::Args)]
pub struct Args {
    /// read: HBM to SRAM; write: SRAM to HBM; copy: both
    #[arg(long, value_name = "OP", required_unless_present = "table", value_parser = PossibleValuesParser::new(Way::ALL.map(Way::name)).map(way))]
    op: Option<Way>,
    /// Bytes to read, write or copy, such as 4GiB
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, required_unless_present = "table", value_parser = bytes)]
    bytes: Option<u64>,
    /// Bytes of one transfer: a multiple of 32
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, default_value = "16KiB", value_parser = bytes)]
    chunk: u64,
    /// Buffers that each tile keeps in flight, 1 to 16
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 8, value_parser = streams)]
    streams: u64,
    /// Whether consecutive chunks belong to consecutive tiles, or a range of chunks to each
    #[arg(long, value_name = "SPLIT", default_value = "interleaved", value_parser = PossibleValuesParser::new(["interleaved", "ranges"]).map(split))]
    split: Split,
    /// Print bandwidth against chunk, streams and mapping with hbm.model = exact, and run nothing else
    #[arg(long, conflicts_with_all = ["op", "bytes", "chunk", "streams", "split", "check", "no_data", "sanitize", "trace", "output"])]
    pub table: bool,
}

fn way(name: String) -> Way {
    let found = Way::ALL.into_iter().find(|way| way.name() == name);
    found.unwrap_or(Way::Read)
}

fn split(name: String) -> Split {
    match name.as_str() {
        "ranges" => Split::Ranges,
        _ => Split::Interleaved,
    }
}

/// A number of buffers; what is out of range is told with its name by the operation.
fn streams(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<u64>();
    parsed.map_err(|_| format!("it must be 1 to {MAX_STREAMS}"))
}

/// A size of a flag.
fn bytes(text: &str) -> Result<u64, String> {
    units::bytes(text).map_err(|e| e.to_string())
}

impl Args {
    /// The operation.
    ///
    /// # Errors
    /// A check of a stream that leaves nothing to check.
    pub fn resolve(&self, check: bool) -> Result<Op, CliError> {
        let (Some(way), Some(bytes)) = (self.op, self.bytes) else {
            return Err(CliError::usage("--op and --bytes are needed"));
        };
        if check && way == Way::Read {
            return Err(CliError::usage(
                "--check: a read leaves nothing in HBM to compare; use --op copy",
            ));
        }
        Ok(Op::Stream(Stream {
            way,
            bytes,
            chunk: self.chunk,
            streams: self.streams,
            split: self.split,
        }))
    }
}

/// A run of the table.
#[derive(Clone, Copy, Debug)]
struct Cell {
    way: Way,
    chunk: u64,
    streams: u64,
    mapping: &'static str,
}

impl Cell {
    fn op(&self, chip: &Chip) -> Stream {
        let (least, most) = TILE_BYTES;
        let tile = (ROUNDS * self.streams * self.chunk).clamp(least, most);
        let crossings = if self.way == Way::Copy { 2 } else { 1 };
        Stream {
            way: self.way,
            bytes: u64::from(chip.tiles()) * tile / crossings,
            chunk: self.chunk,
            streams: self.streams,
            split: Split::default(),
        }
    }

    /// Bytes a second over HBM's pins from start to end; none if the buffers do not fit.
    fn run(&self, chip: &Chip) -> Result<Option<f64>, CliError> {
        let mut chip = chip.clone();
        chip.set_all(&["hbm.model=exact", &format!("hbm.mapping={}", self.mapping)])?;
        let op = Op::Stream(self.op(&chip));
        let compiled = match compiler::compile(&op, &chip) {
            Err(CompileError::Tsram { .. }) => return Ok(None),
            result => result.map_err(|error| model::refused(&error, None))?,
        };
        let machine = simulate::load(&Arc::new(chip), &Arc::new(compiled.image), false, op.name())?;
        let options = TimedOptions {
            max_cycles: Some(DEFAULT_MAX_CYCLES),
            ..TimedOptions::default()
        };
        let run = timing::run(machine, &options).map_err(|e| simulate::run_error(&e))?;
        let moved = run.counters.hbm_read_bytes + run.counters.hbm_write_bytes;
        Ok(Some(moved as f64 / run.end.seconds()))
    }
}

/// Cells by chunk and streams, and those by chunk and mapping that are not among them.
fn cells() -> Vec<Cell> {
    let mut all = Vec::new();
    for way in Way::ALL {
        for chunk in CHUNK_SIZES {
            let cell = |streams, mapping| Cell {
                way,
                chunk,
                streams,
                mapping,
            };
            all.extend(STREAMS.map(|streams| cell(streams, MAPPINGS[0])));
            all.extend(MAPPINGS[1..].iter().map(|m| cell(MAPPING_STREAMS, m)));
        }
    }
    all
}

/// The unit of the table and its bytes a second: one in which the chip's peak is at least 1.
fn unit(chip: &Chip) -> (&'static str, f64) {
    match cost::hbm_peak_bytes_per_s(chip) {
        1_000_000_000_000.. => ("TB/s", 1e12),
        1_000_000_000.. => ("GB/s", 1e9),
        _ => ("MB/s", 1e6),
    }
}

/// As the table shows it: in its unit, and percent of the peak.
fn shown(rate: Option<f64>, chip: &Chip) -> String {
    let peak = cost::hbm_peak_bytes_per_s(chip) as f64;
    match rate {
        Some(rate) => format!("{:.2} ({:.1})", rate / unit(chip).1, 100.0 * rate / peak),
        None => "no room".to_owned(),
    }
}

/// What a cell reads, writes or copies.
fn moved(cell: &Cell, chip: &Chip) -> String {
    format!("{:.2} MiB", cell.op(chip).bytes as f64 / f64::from(1 << 20))
}

/// Prints the table.
pub fn table(context: &Context) -> Result<(), CliError> {
    let chip = context.chip()?;
    let cells = cells();
    let rates = {
        let _progress = Progress::start("simulating", context);
        let rates = cells.par_iter().map(|cell| cell.run(&chip));
        rates.collect::<Result<Vec<_>, _>>()?
    };
    let peak = cost::hbm_peak_bytes_per_s(&chip) as f64;
    if context.json {
        let list = cells.iter().zip(&rates).map(|(cell, rate)| {
            json!({
                "op": cell.way.name(), "chunk": cell.chunk, "streams": cell.streams, "mapping": cell.mapping,
                "bytes": cell.op(&chip).bytes, "hbm_tbps": rate.map(|r| r / 1e12),
                "percent_of_hbm_peak": rate.map(|r| 100.0 * r / peak),
            })
        });
        let list: Vec<_> = list.collect();
        return context
            .print_json(json!({ "chip": chip.name, "hbm_model": "exact", "cells": list }));
    }
    let find = |way, chunk, streams, mapping| {
        let mut all = cells.iter().zip(&rates);
        let found = all.find(|(c, _)| {
            (c.way, c.chunk, c.streams, c.mapping) == (way, chunk, streams, mapping)
        });
        shown(found.and_then(|(_, rate)| *rate), &chip)
    };
    let (unit, per_s) = unit(&chip);
    let mut out = format!(
        "On `{}` with `hbm.model = \"exact\"`: {unit} over HBM's pins (percent of the peak, {:.3} {unit}), start and end included.\n",
        chip.name,
        peak / per_s
    );
    let streams = STREAMS.map(|s| format!("{s} a tile")).join(" | ");
    heading(&mut out, "streams", &streams, STREAMS.len());
    rows(&mut out, |way, chunk| {
        STREAMS
            .map(|s| find(way, chunk, s, MAPPINGS[0]))
            .join(" | ")
    });
    let mappings = MAPPINGS.map(|m| format!("`{m}`")).join(" | ");
    let label = format!("{MAPPING_STREAMS} streams, mapping");
    heading(&mut out, &label, &mappings, MAPPINGS.len());
    rows(&mut out, |way, chunk| {
        MAPPINGS
            .map(|m| find(way, chunk, MAPPING_STREAMS, m))
            .join(" | ")
    });
    out.push_str("\nBytes that a cell reads, writes or copies, with any mapping:\n");
    heading(&mut out, "bytes with streams", &streams, STREAMS.len());
    rows(&mut out, |way, chunk| {
        let cell = |streams| Cell {
            way,
            chunk,
            streams,
            mapping: MAPPINGS[0],
        };
        STREAMS.map(|s| moved(&cell(s), &chip)).join(" | ")
    });
    context.print(&out)
}

fn heading(out: &mut String, label: &str, columns: &str, count: usize) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "\n| op | chunk, {label}: | {columns} |\n|---|---|{}",
        "---:|".repeat(count)
    );
}

fn rows(out: &mut String, cells: impl Fn(Way, u64) -> String) {
    for way in Way::ALL {
        for chunk in CHUNK_SIZES {
            let _ = writeln!(
                out,
                "| {} | {} | {} |",
                way.name(),
                units::display(Unit::Bytes, chunk),
                cells(way, chunk)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/timing/hbm/bandwidth.md");

    /// The cell of a row of the page, by the heading of its table and of its column.
    fn committed<'a>(page: &'a str, label: &str, column: &str, way: Way, chunk: u64) -> &'a str {
        let cut = |line: &'a str| line.split('|').map(str::trim).collect::<Vec<_>>();
        let table = page.lines().skip_while(|l| !l.contains(label));
        let heading = cut(table.clone().next().unwrap());
        let column = heading.iter().position(|c| *c == column).unwrap();
        let chunk = units::display(Unit::Bytes, chunk);
        let row = table
            .map(cut)
            .find(|row| row.len() > 2 && row[1] == way.name() && row[2] == chunk);
        row.unwrap()[column]
    }

    /// Small chips do not end at 0.00.
    #[test]
    fn the_unit_follows_the_chip() {
        let (mini, maia) = (
            Chip::preset("mini").unwrap(),
            Chip::preset("maia-200").unwrap(),
        );
        assert_eq!(unit(&maia), ("TB/s", 1e12));
        assert_eq!(unit(&mini), ("GB/s", 1e9));
        let peak = cost::hbm_peak_bytes_per_s(&mini) as f64;
        assert_eq!(
            shown(Some(peak / 100.0), &mini),
            format!("{:.2} (1.0)", peak / 1e11)
        );
    }

    /// The bytes of every cell stand on the page.
    #[test]
    fn the_page_says_what_a_cell_moves() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let chip = Chip::preset("maia-200").unwrap();
        for cell in cells().iter().filter(|cell| cell.mapping == MAPPINGS[0]) {
            let column = format!("{} a tile", cell.streams);
            let label = "bytes with streams:";
            let want = committed(&page, label, &column, cell.way, cell.chunk);
            assert_eq!(moved(cell, &chip), want, "{cell:?}");
        }
    }

    /// Cells of the page, run again: the whole is `bench stream --table`.
    #[test]
    fn the_page_is_what_the_table_prints() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let chip = Chip::preset("maia-200").unwrap();
        for (label, column, cell) in [
            (
                "chunk, streams:",
                "8 a tile",
                Cell {
                    way: Way::Read,
                    chunk: 16 << 10,
                    streams: 8,
                    mapping: "blocks",
                },
            ),
            (
                "chunk, streams:",
                "2 a tile",
                Cell {
                    way: Way::Copy,
                    chunk: 4 << 10,
                    streams: 2,
                    mapping: "blocks",
                },
            ),
            (
                "streams, mapping:",
                "`M1`",
                Cell {
                    way: Way::Write,
                    chunk: 1 << 10,
                    streams: 8,
                    mapping: "M1",
                },
            ),
        ] {
            let rate = cell.run(&chip).unwrap_or_else(|e| panic!("{cell:?}: {e}"));
            let want = committed(&page, label, column, cell.way, cell.chunk);
            assert_eq!(shown(rate, &chip), want, "{cell:?}");
        }
    }
}
