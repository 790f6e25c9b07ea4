//! Records of the `.tilewright.*` sections: little endian, strings and lists behind a `u32` count.

use super::{KERNELS, NOTES, ObjectError, TENSORS};
use crate::asm::directive::{MAX_RANK, space_limit};
use crate::isa::Dtype;
use crate::isa::image::{Class, Init, Kernel, MAX_DATA_BYTES, Space, Tensor};

const SPACES: [Space; 3] = [Space::Hbm, Space::Csram, Space::Tsram];
const CLASSES: [Class; 2] = [Class::Payload, Class::Control];

/// Appends records.
#[derive(Default)]
pub struct Sink(pub Vec<u8>);

impl Sink {
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub fn u32(&mut self, v: u32) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn u64(&mut self, v: u64) {
        self.0.extend(v.to_le_bytes());
    }

    /// A count. Lists of more than `u32::MAX` entries do not fit in the memory of any host that made them.
    pub fn count(&mut self, n: usize) {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX));
    }

    pub fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend(text.bytes());
    }

    fn init(&mut self, init: &Init) {
        match init {
            Init::None => self.u8(0),
            Init::Zero => self.u8(1),
            Init::Iota => self.u8(2),
            Init::Normal(seed) => {
                self.u8(3);
                self.u64(*seed);
            }
            Init::Values(values) => {
                self.u8(4);
                self.count(values.len());
                for v in values {
                    // One NaN, so that the bytes do not depend on how it was made.
                    let v = if v.is_nan() { f64::NAN } else { *v };
                    self.u64(v.to_bits());
                }
            }
            Init::Data(data) => {
                self.u8(5);
                self.count(data.len());
                self.0.extend(&**data);
            }
        }
    }
}

/// The contents of the tensors' section.
pub fn write_tensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut out = Sink::default();
    out.count(tensors.len());
    for t in tensors {
        out.text(&t.name);
        out.u8(t.space as u8);
        out.u64(t.offset);
        out.u8(t.dtype.code());
        out.u8(u8::from(t.class == Class::Control));
        out.count(t.shape.len());
        t.shape.iter().for_each(|d| out.u64(*d));
        // 0: none; no row is that short.
        out.u64(t.pitch.unwrap_or(0));
        out.init(&t.init);
        out.u8(u8::from(t.expect.is_some()));
        t.expect.iter().for_each(|e| out.init(e));
    }
    out.0
}

/// The contents of the kernels' section.
pub fn write_kernels(kernels: &[Kernel]) -> Vec<u8> {
    let mut out = Sink::default();
    out.count(kernels.len());
    for k in kernels {
        out.text(&k.name);
        out.u32(k.start);
        out.u32(k.len);
    }
    out.0
}

/// The contents of the notes' section.
pub fn write_notes(notes: &[(String, String)]) -> Vec<u8> {
    let mut out = Sink::default();
    out.count(notes.len());
    for (key, value) in notes {
        out.text(key);
        out.text(value);
    }
    out.0
}

/// Reads records of one section.
pub struct Source<'d> {
    data: &'d [u8],
    at: usize,
    section: &'static str,
}

impl<'d> Source<'d> {
    pub fn new(section: &'static str, data: &'d [u8]) -> Self {
        Source {
            data,
            at: 0,
            section,
        }
    }

    fn take(&mut self, n: usize) -> Result<&'d [u8], ObjectError> {
        let bytes = self
            .at
            .checked_add(n)
            .and_then(|end| self.data.get(self.at..end))
            .ok_or(ObjectError::Truncated {
                section: self.section,
                offset: self.at,
            })?;
        self.at += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ObjectError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub fn u8(&mut self) -> Result<u8, ObjectError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, ObjectError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, ObjectError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, ObjectError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn text(&mut self) -> Result<String, ObjectError> {
        let len = self.u32()? as usize;
        let bytes = self.take(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.bad("text that is not UTF-8")),
        }
    }

    /// A list: its length, then its entries. Each takes at least a byte, so the section bounds the list.
    pub fn list<T>(
        &mut self,
        mut entry: impl FnMut(&mut Self) -> Result<T, ObjectError>,
    ) -> Result<Vec<T>, ObjectError> {
        let count = self.u32()?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(entry(self)?);
        }
        Ok(out)
    }

    /// Nothing may follow.
    pub fn finish(&self) -> Result<(), ObjectError> {
        match self.data.len() - self.at {
            0 => Ok(()),
            n => Err(self.bad(format!("{n} bytes after the last record"))),
        }
    }

    pub fn bad(&self, what: impl Into<String>) -> ObjectError {
        ObjectError::Value {
            section: self.section,
            offset: self.at,
            what: what.into(),
        }
    }

    fn init(&mut self) -> Result<Init, ObjectError> {
        Ok(match self.u8()? {
            0 => Init::None,
            1 => Init::Zero,
            2 => Init::Iota,
            3 => Init::Normal(self.u64()?),
            4 => {
                let values = self.list(|s| Ok(f64::from_bits(s.u64()?)))?;
                if values.is_empty() {
                    return Err(self.bad("an empty list of values"));
                }
                Init::Values(values)
            }
            5 => {
                let len = self.u32()? as usize;
                Init::Data(self.take(len)?.into())
            }
            other => return Err(self.bad(format!("form of contents {other}"))),
        })
    }

    fn tensor(&mut self) -> Result<Tensor, ObjectError> {
        let name = self.text()?;
        let space = usize::from(self.u8()?);
        let offset = self.u64()?;
        let dtype = self.u8()?;
        let class = usize::from(self.u8()?);
        let shape = self.list(Self::u64)?;
        let pitch = Some(self.u64()?).filter(|p| *p > 0);
        let init = self.init()?;
        let expect = match self.u8()? {
            0 => None,
            _ => Some(self.init()?),
        };
        if let Some(Init::Data(_)) = expect {
            return Err(self.bad(format!("tensor `{name}` expects data")));
        }
        let tensor = Tensor {
            name,
            space: *SPACES
                .get(space)
                .ok_or_else(|| self.bad(format!("memory {space}")))?,
            offset,
            dtype: Dtype::from_code(dtype)
                .ok_or_else(|| self.bad(format!("element type {dtype}")))?,
            class: *CLASSES
                .get(class)
                .ok_or_else(|| self.bad(format!("class {class}")))?,
            shape,
            pitch,
            init,
            expect,
        };
        if let Some(pitch) = pitch.filter(|p| *p < tensor.row_bytes()) {
            let (name, row) = (&tensor.name, tensor.row_bytes());
            return Err(self.bad(format!(
                "tensor `{name}`: pitch {pitch} is below the {row} bytes of a row"
            )));
        }
        if let Init::Data(data) = &tensor.init
            && data.len() as u64 != tensor.bytes()
        {
            let (name, bytes, got) = (&tensor.name, tensor.bytes(), data.len());
            return Err(self.bad(format!(
                "tensor `{name}`: {got} bytes of data for {bytes} bytes"
            )));
        }
        let limit = space_limit(tensor.space);
        let end = offset.checked_add(tensor.bytes());
        let fits = end.is_some_and(|end| end <= limit);
        if !fits || tensor.shape.len() > MAX_RANK || tensor.shape.contains(&0) {
            let what = format!(
                "tensor `{}` of shape {:?} at {offset:#x}: at most {MAX_RANK} positive extents, below {limit:#x}",
                tensor.name, tensor.shape
            );
            return Err(self.bad(what));
        }
        Ok(tensor)
    }
}

pub fn read_tensors(data: &[u8]) -> Result<Vec<Tensor>, ObjectError> {
    let mut source = Source::new(TENSORS, data);
    let tensors = source.list(Source::tensor)?;
    source.finish()?;
    unique(&source, tensors.iter().map(|t| t.name.as_str()))?;
    let data = tensors.iter().map(|t| match &t.init {
        Init::Data(data) => data.len() as u64,
        _ => 0,
    });
    let data: u64 = data.sum();
    if data > MAX_DATA_BYTES {
        return Err(source.bad(format!("{data} bytes of data, more than {MAX_DATA_BYTES}")));
    }
    Ok(tensors)
}

/// Kernels must tile the kernel section of `words` words in order, as the assembler lays them out.
pub fn read_kernels(data: &[u8], words: usize) -> Result<Vec<Kernel>, ObjectError> {
    let mut source = Source::new(KERNELS, data);
    let mut end = 0u32;
    let kernels = source.list(|s| {
        let (name, start, len) = (s.text()?, s.u32()?, s.u32()?);
        let next = start.checked_add(len).filter(|_| start == end && len > 0);
        end = next.ok_or_else(|| {
            s.bad(format!(
                "kernel `{name}` at word {start} of {len} words, expected at {end}"
            ))
        })?;
        Ok(Kernel { name, start, len })
    })?;
    source.finish()?;
    if end as usize != words {
        return Err(source.bad(format!("kernels of {end} words in a section of {words}")));
    }
    unique(&source, kernels.iter().map(|k| k.name.as_str()))?;
    Ok(kernels)
}

pub fn read_notes(data: &[u8]) -> Result<Vec<(String, String)>, ObjectError> {
    let mut source = Source::new(NOTES, data);
    let notes = source.list(|s| Ok((s.text()?, s.text()?)))?;
    source.finish()?;
    Ok(notes)
}

/// Names must be there and differ: text made from the image has to assemble.
fn unique<'n>(
    source: &Source<'_>,
    names: impl Iterator<Item = &'n str>,
) -> Result<(), ObjectError> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if name.is_empty() || !seen.insert(name) {
            return Err(source.bad(format!("name `{name}` is empty or stands twice")));
        }
    }
    Ok(())
}
