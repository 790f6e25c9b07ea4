//! Contents of tensors given byte by byte.
//!
//! Models: `.data NAME, "HEX"`, which appends to a tensor declared without contents. Leaves out: every other form of contents
//! ([`super::directive`]). Invariants: a tensor has exactly its bytes or the source has an error; all bytes together are at most
//! [`MAX_DATA_BYTES`], so that a program and its text fit in each other's limits.

use super::assemble::Assembler;
use super::directive::text;
use super::expand::Place;
use super::expr::{Cursor, Error};
use super::symbols::Global;
use crate::isa::image::{Init, MAX_DATA_BYTES};
use std::collections::BTreeMap;
use std::ops::Range;

/// What was given so far, by index of the tensor.
#[derive(Default)]
pub struct Contents {
    tensors: BTreeMap<usize, Content>,
    /// Bytes given, of all tensors.
    bytes: u64,
}

struct Content {
    bytes: Vec<u8>,
    /// The first line of them.
    place: Place,
    span: Range<usize>,
}

impl Assembler<'_> {
    /// `.data NAME, "HEX"`.
    pub fn data(&mut self, cursor: &mut Cursor<'_>, place: &Place) -> Result<(), Error> {
        let (name, span, _) = cursor.name("a tensor's name")?;
        cursor.expect(",")?;
        let (digits, at) = text(cursor)?;
        cursor.finish()?;
        let Some(Global::Tensor(index)) = self.symbols.global(self.within_name(), name) else {
            let message = format!("no tensor above is called `{name}`");
            return Err(Error::new(message, span));
        };
        let tensor = &self.symbols.tensors[index];
        if tensor.init != Init::None {
            let message = format!("`{name}` has its contents from its declaration");
            return Err(Error::new(message, span));
        }
        let wanted = tensor.bytes();
        let content = self.data.tensors.entry(index).or_insert_with(|| Content {
            bytes: Vec::new(),
            place: place.clone(),
            span,
        });
        let before = content.bytes.len();
        decode(&digits, &mut content.bytes).map_err(|message| Error::new(message, at.clone()))?;
        self.data.bytes += (content.bytes.len() - before) as u64;
        let given = content.bytes.len() as u64;
        if given > wanted {
            let message = format!("{given} bytes of data for `{name}`, which has {wanted}");
            return Err(Error::new(message, at));
        }
        if self.data.bytes > MAX_DATA_BYTES {
            let message = format!("more than {MAX_DATA_BYTES} bytes of data in a program");
            return Err(Error::new(message, at));
        }
        Ok(())
    }

    /// Gives every tensor its contents.
    pub fn fill_data(&mut self) {
        for (tensor, content) in std::mem::take(&mut self.data.tensors) {
            let tensor = &mut self.symbols.tensors[tensor];
            let (given, wanted) = (content.bytes.len() as u64, tensor.bytes());
            tensor.init = Init::Data(content.bytes.into());
            if given < wanted {
                let name = tensor.name.clone();
                let message = format!("{given} bytes of data for `{name}`, which has {wanted}");
                self.error(&content.place, Error::new(message, content.span));
            }
        }
    }
}

/// Appends the bytes of a text of hexadecimal digits; nothing on an error.
fn decode(digits: &str, out: &mut Vec<u8>) -> Result<(), String> {
    let before = out.len();
    let mut high = None;
    for c in digits.chars() {
        let digit = c.to_digit(16).map(|d| d as u8);
        match (digit, high) {
            (None, None) if c == ' ' => {}
            (Some(d), None) => high = Some(d),
            (Some(d), Some(h)) => {
                out.push(h << 4 | d);
                high = None;
            }
            (None, _) => {
                out.truncate(before);
                return Err(format!(
                    "{c:?} in data, which is pairs of hexadecimal digits"
                ));
            }
        }
    }
    match high {
        None => Ok(()),
        Some(_) => {
            out.truncate(before);
            Err("an odd number of hexadecimal digits".to_owned())
        }
    }
}
