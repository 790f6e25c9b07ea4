//! From the bytes of an object to an image.

use super::bytes::{Source, read_kernels, read_notes, read_tensors};
use super::{
    CHECKSUM, CONSTANTS, FORMAT_VERSION, KERNELS, LINES, MACHINE, NOTES, ObjectError, STRINGS,
    SYMBOL_BYTES, SYMBOLS, TENSORS, TEXT, VERSION, dwarf, fnv1a,
};
use crate::isa::ISA_VERSION;
use crate::isa::image::{Image, Kernel, Line, Section};
use ::object::elf::{FileHeader64, STT_NOTYPE};
use ::object::read::elf::{FileHeader, SectionHeader};
use ::object::{LittleEndian, elf};
use std::collections::{HashMap, HashSet};

/// Section contents by name.
type Sections<'d> = HashMap<String, &'d [u8]>;

/// The image of an object file. Never panics; a damaged or foreign file is a named error.
pub fn read(data: &[u8]) -> Result<Image, ObjectError> {
    let sections = sections(data)?;
    check_version(&sections)?;
    check_sums(&sections)?;
    let get = |name: &str| find(&sections, name);
    let mut code: [Section; 4] = Default::default();
    for (section, (name, _)) in code.iter_mut().zip(TEXT) {
        *section = decode(name, get(name)?)?;
    }
    let lens = [0, 1, 2, 3].map(|i: usize| code[i].words.len());
    let (files, lines) = dwarf::read(sections.get(LINES).copied().unwrap_or_default(), lens)?;
    for (section, lines) in code.iter_mut().zip(lines) {
        section.lines = lines;
    }
    let kernels = read_kernels(get(KERNELS)?, lens[3])?;
    read_labels(&mut code, &kernels, get(SYMBOLS)?, get(STRINGS)?)?;
    let constants = words(CONSTANTS.0, get(CONSTANTS.0)?)?;
    let [tile, cluster, chip, kernel_code] = code;
    let image = Image {
        files,
        tile,
        cluster,
        chip,
        kernel_code,
        kernels,
        constants,
        tensors: read_tensors(get(TENSORS)?)?,
        notes: read_notes(get(NOTES)?)?,
    };
    check_frame(data, &super::write(&image))?;
    Ok(image)
}

/// The checksums cover what the sections hold; headers, names and padding are a function of that, so they are compared with
/// what would be written.
fn check_frame(data: &[u8], written: &[u8]) -> Result<(), ObjectError> {
    if data == written {
        return Ok(());
    }
    let same = data.iter().zip(written).take_while(|(a, b)| a == b);
    Err(ObjectError::Frame {
        offset: same.count(),
    })
}

fn find<'d>(sections: &Sections<'d>, name: &str) -> Result<&'d [u8], ObjectError> {
    sections
        .get(name)
        .copied()
        .ok_or_else(|| ObjectError::Missing {
            section: name.to_owned(),
        })
}

fn sections(data: &[u8]) -> Result<Sections<'_>, ObjectError> {
    let failed = |e: ::object::read::Error| ObjectError::Elf(e.to_string());
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(failed)?;
    let endian = header.endian().map_err(failed)?;
    let machine = header.e_machine(endian).0;
    if machine != MACHINE {
        return Err(ObjectError::Machine { found: machine });
    }
    let table = header.sections(endian, data).map_err(failed)?;
    let mut out = Sections::new();
    for section in table.iter() {
        let name = table.section_name(endian, section).map_err(failed)?;
        let bytes = section.data(endian, data).map_err(failed)?;
        out.insert(String::from_utf8_lossy(name).into_owned(), bytes);
    }
    Ok(out)
}

/// Before anything else: another version may differ in everything else.
fn check_version(sections: &Sections<'_>) -> Result<(), ObjectError> {
    let mut source = Source::new(VERSION, find(sections, VERSION)?);
    let (format, isa) = (source.u32()?, source.u32()?);
    if format != FORMAT_VERSION {
        return Err(ObjectError::Format { found: format });
    }
    match isa == ISA_VERSION {
        true => Ok(()),
        false => Err(ObjectError::Isa { found: isa }),
    }
}

/// Every section of the list must be there as it was written, and every section that is read must be in the list.
fn check_sums(sections: &Sections<'_>) -> Result<(), ObjectError> {
    let data = find(sections, CHECKSUM)?;
    let Some((list, seal)) = data.split_last_chunk::<8>() else {
        return Err(ObjectError::Truncated {
            section: CHECKSUM,
            offset: 0,
        });
    };
    compare(CHECKSUM, fnv1a(list), u64::from_le_bytes(*seal))?;
    let mut source = Source::new(CHECKSUM, list);
    let sums = source.list(|s| Ok((s.text()?, s.u64()?, s.u64()?)))?;
    source.finish()?;
    let mut listed = HashSet::new();
    for (name, _, sum) in &sums {
        compare(name, fnv1a(find(sections, name)?), *sum)?;
        listed.insert(name.as_str());
    }
    let fixed = [
        VERSION,
        TENSORS,
        KERNELS,
        NOTES,
        SYMBOLS,
        STRINGS,
        CONSTANTS.0,
    ];
    let needed = fixed.into_iter().chain(TEXT.iter().map(|t| t.0));
    let lines = sections.contains_key(LINES).then_some(LINES);
    for name in needed.chain(lines) {
        if !listed.contains(name) {
            let section = name.to_owned();
            return Err(ObjectError::Missing { section });
        }
    }
    Ok(())
}

fn compare(section: &str, found: u64, expected: u64) -> Result<(), ObjectError> {
    match found == expected {
        true => Ok(()),
        false => Err(ObjectError::Checksum {
            section: section.to_owned(),
            found,
            expected,
        }),
    }
}

fn words(section: &'static str, data: &[u8]) -> Result<Vec<u64>, ObjectError> {
    let (words, rest) = data.as_chunks::<8>();
    match rest.is_empty() {
        true => Ok(words.iter().map(|w| u64::from_le_bytes(*w)).collect()),
        false => Err(ObjectError::Truncated {
            section,
            offset: 8 * words.len(),
        }),
    }
}

fn decode(name: &'static str, data: &[u8]) -> Result<Section, ObjectError> {
    let in_kernel = name == TEXT[3].0;
    let mut section = Section::default();
    for (i, word) in words(name, data)?.into_iter().enumerate() {
        section
            .push(word, Line::default())
            .map_err(|error| ObjectError::Word {
                section: name,
                offset: 8 * i,
                error,
            })?;
        let info = section.insts[i].info();
        if info.in_kernel() != in_kernel {
            return Err(ObjectError::Value {
                section: name,
                offset: 8 * i,
                what: format!("`{}` cannot stand in this section", info.name),
            });
        }
    }
    Ok(section)
}

/// Labels are the untyped local symbols of the text sections.
fn read_labels(
    code: &mut [Section; 4],
    kernels: &[Kernel],
    table: &[u8],
    strings: &[u8],
) -> Result<(), ObjectError> {
    let mut seen = HashSet::new();
    for i in 1..table.len() / SYMBOL_BYTES {
        let mut entry = Source::new(SYMBOLS, &table[SYMBOL_BYTES * i..SYMBOL_BYTES * (i + 1)]);
        let (name, info, _) = (entry.u32()?, entry.u8()?, entry.u8()?);
        let (section, value) = (entry.u16()?, entry.u64()?);
        if info != ((elf::STB_LOCAL.0 << 4) | STT_NOTYPE.0) {
            continue;
        }
        let bad = |what: String| ObjectError::Value {
            section: SYMBOLS,
            offset: SYMBOL_BYTES * i,
            what,
        };
        let name = strings
            .get(name as usize..)
            .and_then(|s| s.split(|b| *b == 0).next())
            .and_then(|s| std::str::from_utf8(s).ok())
            .filter(|s| !s.is_empty())
            .ok_or_else(|| bad(format!("no name at {name:#x} of {STRINGS}")))?;
        let index = usize::from(section).wrapping_sub(1);
        let word = TEXT
            .get(index)
            .and_then(|(_, base)| value.checked_sub(*base))
            .map(|offset| offset / 8)
            .filter(|w| *w <= code[index].words.len() as u64)
            .ok_or_else(|| bad(format!("label `{name}` at {value:#x}, outside its section")))?;
        // The section's length fits in 32 bits: it is below 2^28 bytes in any file that its addresses can name.
        let word =
            u32::try_from(word).map_err(|_| bad(format!("label `{name}` at word {word}")))?;
        let kernel = kernels.partition_point(|k| k.start <= word);
        let scope = if index == 3 { 3 + kernel } else { index };
        let last = code[index].labels.last().map_or(0, |l| l.1);
        let stray = index == 3 && word as usize >= code[index].words.len();
        if !seen.insert((scope, name)) || word < last || stray {
            return Err(bad(format!(
                "label `{name}` stands twice, out of order or after the last kernel"
            )));
        }
        code[index].labels.push((name.to_owned(), word));
    }
    Ok(())
}
