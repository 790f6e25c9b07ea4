//! Bytes that a memory holds before anything is written, and that the host does not hold.
//!
//! Models: tensors of constants, read when the program reads them. Those of which a part can be had are read part by part; of the others
//! the whole is made, and those used last are kept. Leaves out: what was written since ([`super::cells`]). Invariants: at most [`KEPT`] bytes are
//! kept beside the ones in use; what cannot be read is zeros, and remembered.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of constants that are kept made. Tiles run ahead of each other by a few layers at most.
const KEPT: usize = 1 << 30;

/// Fills a buffer with the bytes of a constant from an offset on; false where that cannot be had without the rest.
type ReadPart = dyn Fn(u64, &mut [u8]) -> Result<bool, String> + Send + Sync;
/// Gives all bytes of a constant.
type ReadAll = dyn Fn() -> Result<Vec<u8>, String> + Send + Sync;

/// The bytes of a constant as they lie in HBM, without the gaps of a pitch.
#[derive(Clone)]
pub struct Contents {
    bytes: u64,
    part: Arc<ReadPart>,
    all: Arc<ReadAll>,
}

impl Contents {
    /// Contents of `bytes` bytes that are read where they are.
    pub fn new(
        bytes: u64,
        part: impl Fn(u64, &mut [u8]) -> Result<bool, String> + Send + Sync + 'static,
        all: impl Fn() -> Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Contents {
        Contents {
            bytes,
            part: Arc::new(part),
            all: Arc::new(all),
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
        let bytes = (self.all)()?;
        match bytes.len() as u64 == self.bytes {
            true => Ok(bytes),
            false => Err(format!("{} bytes in place of {}", bytes.len(), self.bytes)),
        }
    }
}

impl From<Arc<[u8]>> for Contents {
    fn from(bytes: Arc<[u8]>) -> Contents {
        let all = bytes.clone();
        let part = move |at: u64, out: &mut [u8]| {
            out.copy_from_slice(&bytes[at as usize..][..out.len()]);
            Ok(true)
        };
        Contents::new(all.len() as u64, part, move || Ok(all.to_vec()))
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

/// Constants made whole; who clones it shares it.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<Kept>>);

/// What a shelf holds.
#[derive(Debug, Default)]
struct Kept {
    /// Name of the constant and its bytes; the one used last is the last.
    all: Vec<(String, Arc<Vec<u8>>)>,
    problem: Option<(String, String)>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a constant of which no part can be had. Who wants it while another makes it waits for that.
    fn whole(&self, part: &Part) -> Arc<Vec<u8>> {
        let mut kept = self.lock();
        if let Some(at) = kept.all.iter().rposition(|(name, _)| *name == part.name) {
            let used = kept.all.remove(at);
            let bytes = used.1.clone();
            kept.all.push(used);
            return bytes;
        }
        let size = part.contents.bytes as usize;
        let mut held = size + kept.all.iter().map(|k| k.1.len()).sum::<usize>();
        while held > KEPT && !kept.all.is_empty() {
            held -= kept.all.remove(0).1.len();
        }
        let bytes = part.contents.read().unwrap_or_else(|problem| {
            kept.problem.get_or_insert((part.name.clone(), problem));
            vec![0; size]
        });
        let bytes = Arc::new(bytes);
        kept.all.push((part.name.clone(), bytes.clone()));
        bytes
    }
}

/// The constants of a memory.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// By their start; they do not overlap.
    parts: Vec<Part>,
    shelf: Shelf,
    /// The constant that was read last.
    last: RefCell<Option<(usize, Arc<Vec<u8>>)>>,
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
    fn fill(&self, index: usize, from: u64, out: &mut [u8]) {
        let part = &self.parts[index];
        let mut last = self.last.borrow_mut();
        let bytes = match &*last {
            Some((i, bytes)) if *i == index => bytes,
            _ => {
                match (part.contents.part)(from, out) {
                    Ok(true) => return,
                    // What cannot be read is told by who reads the whole.
                    Ok(false) | Err(_) => {}
                }
                // Not two at a time.
                *last = None;
                &last.insert((index, self.shelf.whole(part))).1
            }
        };
        out.copy_from_slice(&bytes[from as usize..][..out.len()]);
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
            name: "c".into(),
            start,
            row,
            pitch,
            contents: Contents::new(bytes.len() as u64, some, move || Ok(b.to_vec())),
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
            contents: Contents::new(4, fails, || Err("gone".to_owned())),
            ..part(0, 4, 4, &[], true)
        });
        assert!(added.is_ok());
        let mut out = [1; 2];
        given.read(1, &mut out);
        assert_eq!(out, [0; 2]);
        assert_eq!(given.problem(), Some(("c".into(), "gone".into())));
    }
}
