//! Where the bytes of constants are: in memory, in a range of a file, made of other constants, drawn at random, or nowhere.
//!
//! Models: elements of a value's type, little-endian, those of less than a byte packed, the first in the lowest bits. Leaves
//! out: reading ahead and caching; weights of hundreds of gigabytes stay in their files until they are placed in HBM.
//! Invariant: a range lay inside its file when the model was read.

use super::derive::Derived;
use super::drawn::Drawn;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRange {
    pub path: Arc<Path>,
    pub offset: u64,
    pub bytes: u64,
}

/// What a constant holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    Bytes(Arc<[u8]>),
    File(FileRange),
    /// Made of other constants on reading.
    Derived(Arc<Derived>),
    /// Random numbers, for who checks programs and not models.
    Drawn(Arc<Drawn>),
    /// The model was named without its weights: shapes and types are known, values are not. Such a graph compiles and runs
    /// without data.
    Absent,
}

/// Constants that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{path}: cannot read {bytes} bytes at {offset}: {error}")]
    File {
        path: String,
        offset: u64,
        bytes: u64,
        error: std::io::Error,
    },
    #[error("the model was named without its weights")]
    Absent,
}

impl Data {
    /// The bytes, read from the file if they are in one.
    ///
    /// # Errors
    /// A file that has become shorter or is gone; weights that are absent.
    pub fn read(&self) -> Result<Arc<[u8]>, DataError> {
        match self {
            Data::Bytes(bytes) => Ok(bytes.clone()),
            Data::File(range) => range.read(),
            Data::Derived(derived) => derived.read(),
            Data::Drawn(drawn) => Ok(drawn.read()),
            Data::Absent => Err(DataError::Absent),
        }
    }

    /// Fills `out` with the bytes from `at` on, where a part can be had without the rest; else gives false.
    ///
    /// # Errors
    /// As [`Data::read`].
    pub fn part(&self, at: u64, out: &mut [u8]) -> Result<bool, DataError> {
        match self {
            Data::Bytes(bytes) => {
                let there = bytes.get(at as usize..).unwrap_or_default();
                let n = there.len().min(out.len());
                out[..n].copy_from_slice(&there[..n]);
                out[n..].fill(0);
            }
            Data::File(range) => {
                let n = range.bytes.saturating_sub(at).min(out.len() as u64);
                let part = FileRange {
                    offset: range.offset + at,
                    bytes: n,
                    ..range.clone()
                };
                out[..n as usize].copy_from_slice(&part.read()?);
                out[n as usize..].fill(0);
            }
            Data::Drawn(drawn) => drawn.part(at, out),
            Data::Derived(_) => return Ok(false),
            Data::Absent => return Err(DataError::Absent),
        }
        Ok(true)
    }
}

impl FileRange {
    /// The bytes.
    ///
    /// # Errors
    /// A file that has become shorter or is gone.
    pub fn read(&self) -> Result<Arc<[u8]>, DataError> {
        let fail = |error| DataError::File {
            path: self.path.display().to_string(),
            offset: self.offset,
            bytes: self.bytes,
            error,
        };
        let mut file = std::fs::File::open(&self.path).map_err(fail)?;
        // Before memory is taken: a hostile length must not ask for more than the file has.
        let end = self.offset.saturating_add(self.bytes);
        let size = file.metadata().map_err(fail)?.len();
        if end > size {
            let why = format!("the file has {size} bytes");
            return Err(fail(std::io::Error::other(why)));
        }
        let mut bytes = vec![0; self.bytes as usize];
        file.seek(SeekFrom::Start(self.offset)).map_err(fail)?;
        file.read_exact(&mut bytes).map_err(fail)?;
        Ok(bytes.into())
    }
}
