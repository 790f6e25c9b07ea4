//! Bytes that a memory holds before anything is written, and that the host does not hold.
//!
//! Models: tensors of constants, read when the program reads them. Those of which a part can be had are read part by part; of the others
//! blocks are made, and those used last are kept. Leaves out: what was written since ([`super::cells`]). Invariants: at most [`KEPT`] bytes are
//! kept beside the ones in use; what cannot be read is zeros, and remembered.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of constants that are kept made. Tiles run ahead of each other by a few layers at most.
const KEPT: usize = 1 << 30;

/// Fills a buffer with the bytes of a constant from an offset on; false where that cannot be had without the rest.
type ReadPart = dyn Fn(u64, &mut [u8]) -> Result<bool, String> + Send + Sync;
/// Gives all bytes of a block of a constant.
type MakeBlock = dyn Fn(u64) -> Result<Vec<u8>, String> + Send + Sync;

/// The bytes of a constant as they lie in HBM, without the gaps of a pitch.
#[derive(Clone)]
pub struct Contents {
    bytes: u64,
    /// Bytes of a block; the last may have fewer.
    block: u64,
    part: Arc<ReadPart>,
    make: Arc<MakeBlock>,
}

impl Contents {
    /// Contents of `bytes` bytes: parts that are read where they are, and blocks of `block` bytes, the last perhaps of fewer, that are made
    /// one by one where parts cannot be had.
    pub fn new(
        (bytes, block): (u64, u64),
        part: impl Fn(u64, &mut [u8]) -> Result<bool, String> + Send + Sync + 'static,
        make: impl Fn(u64) -> Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Contents {
        Contents {
            bytes,
            block: block.max(1),
            part: Arc::new(part),
            make: Arc::new(make),
        }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of them.
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        let blocks = 0..self.bytes.div_ceil(self.block);
        let blocks: Vec<Vec<u8>> = blocks.map(|i| self.made(i)).collect::<Result<_, _>>()?;
        Ok(blocks.concat())
    }

    fn size(&self, block: u64) -> u64 {
        self.block.min(self.bytes - block * self.block)
    }

    fn made(&self, block: u64) -> Result<Vec<u8>, String> {
        let (made, want) = ((self.make)(block)?, self.size(block));
        match made.len() as u64 == want {
            true => Ok(made),
            false => Err(format!("{} bytes in place of {want}", made.len())),
        }
    }
}

impl From<Arc<[u8]>> for Contents {
    fn from(bytes: Arc<[u8]>) -> Contents {
        let (all, size) = (bytes.clone(), bytes.len() as u64);
        let part = move |at: u64, out: &mut [u8]| {
            out.copy_from_slice(&bytes[at as usize..][..out.len()]);
            Ok(true)
        };
        Contents::new((size, size), part, move |_| Ok(all.to_vec()))
    }
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)
    }
}

/// A constant in a memory.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: String,
    /// Of the first row.
    pub start: u64,
    /// Bytes of a row.
    pub row: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    pub contents: Contents,
}

impl Part {
    fn rows(&self) -> u64 {
        self.contents.bytes.checked_div(self.row).unwrap_or(0)
    }

    fn span(&self) -> Range<u64> {
        let last = self.rows().saturating_sub(1) * self.pitch;
        self.start..self.start + last + self.row
    }
}

/// Blocks of constants that were made; who clones it shares it.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<Kept>>);

/// What a shelf holds.
#[derive(Debug, Default)]
struct Kept {
    /// Name of the constant, its block and the bytes; the one used last is the last.
    all: Vec<(String, u64, Arc<Vec<u8>>)>,
    problem: Option<(String, String)>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of a constant of which no part can be had. Who wants it while another makes it waits for that.
    fn block(&self, part: &Part, block: u64) -> Arc<Vec<u8>> {
        let mut kept = self.lock();
        let same = |k: &(String, u64, _)| k.1 == block && k.0 == part.name;
        if let Some(at) = kept.all.iter().rposition(same) {
            let used = kept.all.remove(at);
            let bytes = used.2.clone();
            kept.all.push(used);
            return bytes;
        }
        let size = part.contents.size(block) as usize;
        let mut held = size + kept.all.iter().map(|k| k.2.len()).sum::<usize>();
        while held > KEPT && !kept.all.is_empty() {
            held -= kept.all.remove(0).2.len();
        }
        let bytes = part.contents.made(block).unwrap_or_else(|problem| {
            kept.problem.get_or_insert((part.name.clone(), problem));
            vec![0; size]
        });
        let bytes = Arc::new(bytes);
        kept.all.push((part.name.clone(), block, bytes.clone()));
        bytes
    }
}

/// Index of a constant, its block, the bytes of that.
type Read = (usize, u64, Arc<Vec<u8>>);

/// The constants of a memory.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// By their start; they do not overlap.
    parts: Vec<Part>,
    shelf: Shelf,
    /// The constant that was read last, its block and the bytes.
    last: RefCell<Option<Read>>,
}

impl Given {
    /// Nothing given; constants are kept on this shelf, where others of the same names are the same.
    pub fn on(shelf: Shelf) -> Given {
        Given {
            shelf,
            ..Given::default()
        }
    }

    /// Adds a constant; gives it back if it lies on another.
    ///
    /// # Errors
    /// The constant.
    pub fn add(&mut self, part: Part) -> Result<(), Part> {
        let span = part.span();
        let at = self.parts.partition_point(|p| p.start < part.start);
        let before = at.checked_sub(1).and_then(|i| self.parts.get(i));
        if before.is_some_and(|p| p.span().end > span.start)
            || self.parts.get(at).is_some_and(|p| p.start < span.end)
        {
            return Err(part);
        }
        self.parts.insert(at, part);
        self.last = RefCell::default();
        Ok(())
    }

    pub fn problem(&self) -> Option<(String, String)> {
        self.shelf.lock().problem.clone()
    }

    /// Fills `out` with the bytes of the memory from `at` on: zeros where nothing was given.
    pub fn read(&self, at: u64, out: &mut [u8]) {
        out.fill(0);
        let end = at + out.len() as u64;
        let before = self.parts.partition_point(|p| p.start <= at);
        let parts = self.parts.iter().enumerate();
        for (index, part) in parts.skip(before.saturating_sub(1)) {
            let span = part.span();
            if span.start >= end {
                return;
            }
            let (first, last) = (at.max(span.start), end.min(span.end));
            if first >= last {
                continue;
            }
            if part.pitch == part.row {
                let to = &mut out[(first - at) as usize..(last - at) as usize];
                self.fill(index, first - part.start, to);
                continue;
            }
            let mut row = (first - part.start) / part.pitch;
            while row < part.rows() && part.start + row * part.pitch < last {
                let start = part.start + row * part.pitch;
                let (a, b) = (first.max(start), last.min(start + part.row));
                if a < b {
                    let to = &mut out[(a - at) as usize..(b - at) as usize];
                    self.fill(index, row * part.row + (a - start), to);
                }
                row += 1;
            }
        }
    }

    /// Fills `out` with the bytes of a constant from `from` on.
    fn fill(&self, index: usize, mut from: u64, mut out: &mut [u8]) {
        let part = &self.parts[index];
        let size = part.contents.block;
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|l| l.0 != index) {
            // What cannot be read is told by who makes the block.
            if let Ok(true) = (part.contents.part)(from, out) {
                return;
            }
        }
        while !out.is_empty() {
            let block = from / size;
            let bytes = match &*last {
                Some((i, b, bytes)) if (*i, *b) == (index, block) => bytes,
                _ => {
                    // Not two at a time.
                    *last = None;
                    let made = self.shelf.block(part, block);
                    &last.insert((index, block, made)).2
                }
            };
            let there = &bytes[(from % size) as usize..];
            let n = there.len().min(out.len());
            let (here, rest) = out.split_at_mut(n);
            here.copy_from_slice(&there[..n]);
            (from, out) = (from + n as u64, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, row: u64, pitch: u64, bytes: &[u8], whole: bool) -> Part {
        let (a, b): (Arc<[u8]>, Arc<[u8]>) = (bytes.into(), bytes.into());
        let some = move |at: u64, out: &mut [u8]| {
            if whole {
                return Ok(false);
            }
            out.copy_from_slice(&a[at as usize..][..out.len()]);
            Ok(true)
        };
        Part {
            name: format!("c{start}"),
            start,
            row,
            pitch,
            contents: Contents::new((bytes.len() as u64, 2), some, move |i| {
                let first = 2 * i as usize;
                Ok(b[first..b.len().min(first + 2)].to_vec())
            }),
        }
    }

    #[test]
    fn constants_are_where_they_were_given() {
        for whole in [false, true] {
            let mut given = Given::default();
            given
                .add(part(20, 2, 5, &[1, 2, 3, 4, 5, 6], whole))
                .unwrap();
            given.add(part(4, 3, 3, &[7, 8, 9], whole)).unwrap();
            assert!(given.add(part(6, 3, 3, &[7, 8, 9], whole)).is_err());
            assert!(given.add(part(24, 3, 3, &[7, 8, 9], whole)).is_err());
            let mut want = [0u8; 40];
            for (at, byte) in [(4, 7), (5, 8), (6, 9)] {
                want[at] = byte;
            }
            for (i, at) in [20, 21, 25, 26, 30, 31].into_iter().enumerate() {
                want[at] = i as u8 + 1;
            }
            for start in 0..40 {
                for end in start..=40 {
                    let mut out = vec![9; end - start];
                    given.read(start as u64, &mut out);
                    assert_eq!(out, want[start..end], "{start} to {end}");
                }
            }
            assert_eq!(given.problem(), None);
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let mut given = Given::default();
        let fails = |_: u64, _: &mut [u8]| Err("gone".to_owned());
        let added = given.add(Part {
            contents: Contents::new((4, 4), fails, |_| Err("gone".to_owned())),
            ..part(0, 4, 4, &[], true)
        });
        assert!(added.is_ok());
        let mut out = [1; 2];
        given.read(1, &mut out);
        assert_eq!(out, [0; 2]);
        assert_eq!(given.problem(), Some(("c0".into(), "gone".into())));
    }
}
