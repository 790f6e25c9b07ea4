//! From an image to the bytes of an object.

use super::bytes::{Sink, write_kernels, write_notes, write_tensors};
use super::{
    CHECKSUM, CONSTANTS, FORMAT_VERSION, KERNELS, MACHINE, NOTES, STRINGS, SYMBOL_BYTES, SYMBOLS,
    TENSORS, TEXT, VERSION, dwarf, fnv1a,
};
use crate::isa::ISA_VERSION;
use crate::isa::image::{Image, Section};
use ::object::elf;

/// One section on its way into the file.
struct Part {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    data: Vec<u8>,
    link: u32,
    info: u32,
    entry: u64,
}

impl Part {
    fn new(name: &'static str, kind: u32, data: Vec<u8>) -> Part {
        Part {
            name,
            kind,
            flags: 0,
            address: 0,
            data,
            link: 0,
            info: 0,
            entry: 0,
        }
    }

    fn loaded(self, flags: u64, address: u64) -> Part {
        Part {
            flags: flags | elf::SHF_ALLOC.0,
            address,
            entry: 8,
            ..self
        }
    }
}

/// The text sections in the order of [`TEXT`].
pub fn texts(image: &Image) -> [&Section; 4] {
    [&image.tile, &image.cluster, &image.chip, &image.kernel_code]
}

/// The object file of an image. The same image gives the same bytes.
///
/// Names that ELF cannot hold (with a NUL) have it replaced. The image must be as the assembler and the compiler make it:
/// kernels in order without gaps, names unique; [`super::read`] refuses others.
pub fn write(image: &Image) -> Vec<u8> {
    let words = |words: &[u64]| {
        words
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let mut parts = Vec::new();
    for (section, (name, address)) in texts(image).into_iter().zip(TEXT) {
        let part = Part::new(name, elf::SHT_PROGBITS.0, words(&section.words));
        parts.push(part.loaded(elf::SHF_EXECINSTR.0, address));
    }
    let constants = Part::new(CONSTANTS.0, elf::SHT_PROGBITS.0, words(&image.constants));
    parts.push(constants.loaded(0, CONSTANTS.1));
    let mut version = Sink::default();
    version.u32(FORMAT_VERSION);
    version.u32(ISA_VERSION);
    for (name, data) in [
        (VERSION, version.0),
        (TENSORS, write_tensors(&image.tensors)),
        (KERNELS, write_kernels(&image.kernels)),
        (NOTES, write_notes(&image.notes)),
    ] {
        parts.push(Part::new(name, elf::SHT_PROGBITS.0, data));
    }
    // Writing DWARF fails only on offsets past 4 GiB; such a program keeps its code and loses its lines.
    for (name, data) in dwarf::write(image, texts(image)).unwrap_or_default() {
        parts.push(Part::new(name, elf::SHT_PROGBITS.0, data));
    }
    let symbols = Symbols::of(image);
    // Section 0 is the null section.
    let index = parts.len() as u32 + 1;
    parts.push(Part {
        link: index + 1,
        info: symbols.locals,
        entry: SYMBOL_BYTES as u64,
        ..Part::new(SYMBOLS, elf::SHT_SYMTAB.0, symbols.table)
    });
    parts.push(Part::new(STRINGS, elf::SHT_STRTAB.0, symbols.strings));
    let sums = checksums(&parts);
    parts.push(Part::new(CHECKSUM, elf::SHT_PROGBITS.0, sums));
    frame(parts)
}

/// Name, size and sum of every section, sealed by the sum of the list.
fn checksums(parts: &[Part]) -> Vec<u8> {
    let mut out = Sink::default();
    out.count(parts.len());
    for part in parts {
        out.text(part.name);
        out.u64(part.data.len() as u64);
        out.u64(fnv1a(&part.data));
    }
    let seal = fnv1a(&out.0);
    out.u64(seal);
    out.0
}

/// Symbol and string table.
struct Symbols {
    table: Vec<u8>,
    strings: Vec<u8>,
    /// Index of the first symbol that is not local.
    locals: u32,
}

impl Symbols {
    fn of(image: &Image) -> Symbols {
        let mut s = Symbols {
            table: vec![0; SYMBOL_BYTES],
            strings: vec![0],
            locals: 0,
        };
        for ((section, (_, base)), index) in texts(image).into_iter().zip(TEXT).zip(1u16..) {
            for (name, word) in &section.labels {
                let kind = (elf::STB_LOCAL.0 << 4) | elf::STT_NOTYPE.0;
                s.push(name, kind, index, base + 8 * u64::from(*word), 0);
            }
        }
        s.locals = (s.table.len() / SYMBOL_BYTES) as u32;
        for k in &image.kernels {
            let kind = (elf::STB_GLOBAL.0 << 4) | elf::STT_FUNC.0;
            let address = TEXT[3].1 + 8 * u64::from(k.start);
            s.push(&k.name, kind, 4, address, 8 * u64::from(k.len));
        }
        for t in &image.tensors {
            let kind = (elf::STB_GLOBAL.0 << 4) | elf::STT_OBJECT.0;
            s.push(&t.name, kind, elf::SHN_ABS.0, t.address(), t.bytes());
        }
        s
    }

    fn push(&mut self, name: &str, info: u8, section: u16, value: u64, size: u64) {
        let at = self.strings.len() as u32;
        self.strings.extend(name.replace('\0', "\u{fffd}").bytes());
        self.strings.push(0);
        let mut out = Sink(std::mem::take(&mut self.table));
        out.u32(at);
        out.u8(info);
        out.u8(elf::STV_DEFAULT.0);
        out.0.extend(section.to_le_bytes());
        out.u64(value);
        out.u64(size);
        self.table = out.0;
    }
}

/// The ELF file around the sections: header, contents, names, section headers (System V ABI, "Object Files").
fn frame(mut parts: Vec<Part>) -> Vec<u8> {
    const HEADER_BYTES: u16 = 64;
    const SECTION_HEADER_BYTES: u16 = 64;
    parts.push(Part::new(".shstrtab", elf::SHT_STRTAB.0, Vec::new()));
    let mut names = vec![0u8];
    let mut name_at = Vec::new();
    for part in &parts {
        name_at.push(names.len() as u32);
        names.extend(part.name.bytes());
        names.push(0);
    }
    if let Some(last) = parts.last_mut() {
        last.data = names;
    }
    let mut out = Sink(vec![0; usize::from(HEADER_BYTES)]);
    let mut offsets = Vec::new();
    for part in &parts {
        out.0.resize(out.0.len().next_multiple_of(8), 0);
        offsets.push(out.0.len() as u64);
        out.0.extend(&part.data);
    }
    out.0.resize(out.0.len().next_multiple_of(8), 0);
    let table = out.0.len() as u64;
    out.0
        .resize(out.0.len() + usize::from(SECTION_HEADER_BYTES), 0);
    for ((part, name), offset) in parts.iter().zip(name_at).zip(offsets) {
        out.u32(name);
        out.u32(part.kind);
        out.u64(part.flags);
        out.u64(part.address);
        out.u64(offset);
        out.u64(part.data.len() as u64);
        out.u32(part.link);
        out.u32(part.info);
        out.u64(if part.entry == 0 { 1 } else { 8 });
        out.u64(part.entry);
    }
    let mut header = Sink::default();
    header.0.extend(elf::ELFMAG);
    header.0.extend([
        elf::ELFCLASS64.0,
        elf::ELFDATA2LSB.0,
        elf::EV_CURRENT.0,
        elf::ELFOSABI_NONE.0,
    ]);
    header.0.resize(16, 0);
    header.0.extend(elf::ET_EXEC.0.to_le_bytes());
    header.0.extend(MACHINE.to_le_bytes());
    header.u32(elf::EV_CURRENT.0.into());
    header.u64(0); // Entry: every processor starts at word 0 of its own program.
    header.u64(0); // No program headers.
    header.u64(table);
    header.u32(0);
    let count = parts.len() as u16 + 1;
    for half in [HEADER_BYTES, 0, 0, SECTION_HEADER_BYTES, count, count - 1] {
        header.0.extend(half.to_le_bytes());
    }
    out.0[..usize::from(HEADER_BYTES)].copy_from_slice(&header.0);
    out.0
}
