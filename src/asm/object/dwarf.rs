//! The line table: DWARF 5 written and read with `gimli`.
//!
//! Models: one compilation unit whose ranges are the text sections, a line program with a sequence a section, and the
//! address ranges that older tools look up first. Leaves out: types, variables and frames. Invariant: reading what was
//! written gives the files in their order and the line of every word.

use super::{LINES, ObjectError, TEXT};
use crate::isa::image::{Image, Line, Section};
use gimli::write::{
    Address, AttributeValue, DwarfUnit, EndianVec, LineProgram, LineString, Range, RangeList,
    Sections,
};
use gimli::{Encoding, Format, LineEncoding, LittleEndian};

const ENCODING: Encoding = Encoding {
    format: Format::Dwarf32,
    version: 5,
    address_size: 8,
};

/// DWARF strings hold no NUL and file names are not empty.
fn clean(name: &str) -> LineString {
    let name = name.replace('\0', "\u{fffd}");
    LineString::String(if name.is_empty() {
        b"?".to_vec()
    } else {
        name.into_bytes()
    })
}

/// The debug sections; none if the image names no files.
pub fn write(
    image: &Image,
    sections: [&Section; 4],
) -> Result<Vec<(&'static str, Vec<u8>)>, gimli::write::Error> {
    let Some(first) = image.files.first() else {
        return Ok(Vec::new());
    };
    let directory = LineString::String(b".".to_vec());
    let encoding = LineEncoding::default();
    let mut program = LineProgram::new(ENCODING, encoding, directory, None, clean(first), None);
    let directory = program.default_directory();
    let ids: Vec<_> = image
        .files
        .iter()
        .map(|f| program.add_file(clean(f), directory, None))
        .collect();
    let mut ranges = Vec::new();
    for (section, (_, base)) in sections.into_iter().zip(TEXT) {
        if section.words.is_empty() {
            continue;
        }
        program.begin_sequence(Some(Address::Constant(base)));
        let mut last = None;
        for (i, line) in (0u64..).zip(&section.lines) {
            if last != Some(line) {
                let row = program.row();
                row.address_offset = 8 * i;
                row.file = ids.get(line.file as usize).copied().unwrap_or(ids[0]);
                row.line = line.line.into();
                program.generate_row();
                last = Some(line);
            }
        }
        let length = 8 * section.words.len() as u64;
        program.end_sequence(length);
        ranges.push((base, length));
    }
    let mut dwarf = DwarfUnit::new(ENCODING);
    dwarf.unit.line_program = program;
    let list = ranges
        .iter()
        .map(|(base, length)| Range::StartLength {
            begin: Address::Constant(*base),
            length: *length,
        })
        .collect();
    let list = dwarf.unit.ranges.add(RangeList(list));
    let root = dwarf.unit.root();
    let root = dwarf.unit.get_mut(root);
    let text = |text: &str| AttributeValue::String(text.replace('\0', "\u{fffd}").into_bytes());
    root.set(
        gimli::DW_AT_producer,
        text(concat!("tilewright ", env!("CARGO_PKG_VERSION"))),
    );
    root.set(gimli::DW_AT_name, text(first));
    root.set(gimli::DW_AT_comp_dir, text("."));
    root.set(
        gimli::DW_AT_low_pc,
        AttributeValue::Address(Address::Constant(0)),
    );
    root.set(gimli::DW_AT_ranges, AttributeValue::RangeListRef(list));
    let mut written = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut written)?;
    let mut out = Vec::new();
    written.for_each(|id, data| {
        if !data.slice().is_empty() {
            out.push((id.name(), data.slice().to_vec()));
        }
        Ok::<(), gimli::write::Error>(())
    })?;
    out.push((".debug_aranges", aranges(&ranges)));
    Ok(out)
}

/// `.debug_aranges` (DWARF 5, section 6.1.2) of the one unit at offset 0.
fn aranges(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut out = super::bytes::Sink::default();
    // The length counts what follows it: 12 bytes up to the padded first pair, the pairs and the end mark.
    out.u32(12 + 16 * (ranges.len() as u32 + 1));
    out.0.extend(2u16.to_le_bytes());
    out.u32(0);
    out.u8(8);
    out.u8(0);
    out.u32(0);
    for (base, length) in ranges.iter().chain(&[(0, 0)]) {
        out.u64(*base);
        out.u64(*length);
    }
    out.0
}

/// The files, and the line of every word of the sections of `lens` words.
pub fn read(data: &[u8], lens: [usize; 4]) -> Result<(Vec<String>, [Vec<Line>; 4]), ObjectError> {
    let mut lines = lens.map(|n| vec![Line::default(); n]);
    if data.is_empty() {
        return Ok((Vec::new(), lines));
    }
    let bad = |what: String| ObjectError::Value {
        section: LINES,
        offset: 0,
        what,
    };
    let failed = |e: gimli::Error| bad(e.to_string());
    let debug_line = gimli::read::DebugLine::new(data, LittleEndian);
    let program = debug_line
        .program(gimli::DebugLineOffset(0), 8, None, None)
        .map_err(failed)?;
    let mut files = Vec::new();
    for entry in program.header().file_names() {
        match entry.path_name() {
            gimli::read::AttributeValue::String(s) => {
                files.push(String::from_utf8_lossy(s.slice()).into_owned());
            }
            _ => return Err(bad("file name that is no string".into())),
        }
    }
    let mut rows = program.rows();
    // The row before holds up to the next one.
    let mut open: Option<(u64, Line)> = None;
    while let Some((_, row)) = rows.next_row().map_err(failed)? {
        if let Some((from, line)) = open.take() {
            fill(&mut lines, from, row.address(), line);
        }
        if !row.end_sequence() {
            let line = row.line().map_or(0, |l| l.get());
            let line = u32::try_from(line).map_err(|_| bad(format!("line {line}")))?;
            let file = u32::try_from(row.file_index())
                .ok()
                .filter(|f| (*f as usize) < files.len())
                .ok_or_else(|| bad(format!("file {} of {}", row.file_index(), files.len())))?;
            open = Some((row.address(), Line { file, line }));
        }
    }
    Ok((files, lines))
}

fn fill(lines: &mut [Vec<Line>; 4], from: u64, to: u64, line: Line) {
    for (lines, (_, base)) in lines.iter_mut().zip(TEXT) {
        let index = |address: u64| {
            let words = address.saturating_sub(base) / 8;
            usize::try_from(words).map_or(lines.len(), |w| w.min(lines.len()))
        };
        let (from, to) = (index(from), index(to));
        if from < to {
            lines[from..to].fill(line);
        }
    }
}
