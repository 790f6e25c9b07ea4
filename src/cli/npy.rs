//! NumPy's `.npy` files, as far as tensors need them.
//!
//! Models: format versions 1 to 3, plain element types in either byte order, C and Fortran order. Leaves out: records,
//! strings and pickled objects, which are refused. Invariants: a header takes at most [`HEADER_LIMIT`] bytes and the file
//! must be exactly as long as shape and type say, so that memory is bounded by the file and a wrong one is noticed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest header that is read; NumPy writes 128 bytes.
const HEADER_LIMIT: usize = 1 << 16;
const MAGIC: &[u8] = b"\x93NUMPY";

/// An element type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F16,
    F32,
    F64,
    U8,
    U16,
    I8,
    I16,
    I32,
    I64,
    /// A byte that is 0 or 1.
    Bool,
    /// A type that no tensor takes, by its size in bytes.
    Other(usize),
}

impl Element {
    /// Size in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Element::U8 | Element::I8 | Element::Bool => 1,
            Element::F16 | Element::U16 | Element::I16 => 2,
            Element::F32 | Element::I32 => 4,
            Element::F64 | Element::I64 => 8,
            Element::Other(bytes) => bytes,
        }
    }
}

/// An array: its elements in C order, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub element: Element,
    /// NumPy's name of the type, such as `<f4`.
    pub descr: String,
    pub shape: Vec<u64>,
    pub data: Vec<u8>,
}

struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<u64>,
}

/// Reads a file.
///
/// # Errors
/// What is wrong with its content, in words; the outer error if the file cannot be opened.
pub fn read(path: &Path) -> std::io::Result<Result<Array, String>> {
    read_from(File::open(path)?)
}

/// Reads the bytes of a file.
///
/// # Errors
/// As [`read`].
pub fn read_from(mut file: impl Read) -> std::io::Result<Result<Array, String>> {
    let mut bytes = Vec::new();
    // The header first: the data is read only if the header makes sense.
    (&mut file)
        .take(HEADER_LIMIT as u64)
        .read_to_end(&mut bytes)?;
    let (header, start) = match header(&bytes) {
        Ok(found) => found,
        Err(problem) => return Ok(Err(problem)),
    };
    let element = match element(&header.descr) {
        Ok(element) => element,
        Err(problem) => return Ok(Err(problem)),
    };
    let count = header
        .shape
        .iter()
        .try_fold(1u64, |n, d| n.checked_mul(*d))
        .and_then(|n| n.checked_mul(element.bytes() as u64));
    let Some(size) = count else {
        return Ok(Err(format!("shape {:?} is too large", header.shape)));
    };
    let mut data = bytes.split_off(start);
    let room = size.saturating_add(1).saturating_sub(data.len() as u64);
    file.take(room).read_to_end(&mut data)?;
    if data.len() as u64 != size {
        let more = if data.len() as u64 > size {
            "more"
        } else {
            "fewer"
        };
        return Ok(Err(format!(
            "holds {more} than the {size} bytes of {} {:?}",
            header.descr, header.shape
        )));
    }
    if header.descr.starts_with('>') {
        data.chunks_exact_mut(element.bytes())
            .for_each(<[u8]>::reverse);
    }
    if header.fortran && header.shape.len() > 1 {
        data = to_c_order(&data, &header.shape, element.bytes());
    }
    Ok(Ok(Array {
        element,
        descr: header.descr,
        shape: header.shape,
        data,
    }))
}

/// The header, and where the data begins.
fn header(bytes: &[u8]) -> Result<(Header, usize), String> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("does not begin like a .npy file")?;
    let (length, start) = match rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 10),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
        [version, ..] => return Err(format!(".npy version {version}, wanted 1 to 3")),
        [] => return Err("ends inside the header".to_owned()),
    };
    let end = start + length;
    if end > HEADER_LIMIT {
        return Err(format!(
            "the header ends at byte {end}, must end by byte {HEADER_LIMIT}"
        ));
    }
    let text = bytes.get(start..end).ok_or("ends inside the header")?;
    let text = std::str::from_utf8(text).map_err(|_| "the header is not text")?;
    Ok((parse(text)?, end))
}

/// Reads the dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }` that NumPy writes.
fn parse(text: &str) -> Result<Header, String> {
    let bad = || format!("header `{}` is not NumPy's", text.trim());
    let value = |key: &str| {
        let at = text.find(&format!("'{key}'"))? + key.len() + 2;
        Some(text[at..].trim_start().strip_prefix(':')?.trim_start())
    };
    let descr = value("descr").ok_or_else(bad)?;
    let Some((descr, _)) = descr.strip_prefix('\'').and_then(|d| d.split_once('\'')) else {
        return Err("holds records, not plain numbers".to_owned());
    };
    let fortran = value("fortran_order").ok_or_else(bad)?;
    let fortran = match (fortran.starts_with("True"), fortran.starts_with("False")) {
        (true, _) => true,
        (_, true) => false,
        _ => return Err(bad()),
    };
    let shape = value("shape")
        .and_then(|s| s.strip_prefix('('))
        .and_then(|s| s.split_once(')'))
        .ok_or_else(bad)?;
    let shape = shape
        .0
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.parse::<u64>().map_err(|_| bad()))
        .collect::<Result<Vec<u64>, String>>()?;
    Ok(Header {
        descr: descr.to_owned(),
        fortran,
        shape,
    })
}

/// The element type of a description such as `<f4`.
fn element(descr: &str) -> Result<Element, String> {
    let bad = || format!("element type `{descr}` is not a plain number");
    let kind = descr.strip_prefix(['<', '>', '|', '=']).unwrap_or(descr);
    Ok(match kind {
        "f2" => Element::F16,
        "f4" => Element::F32,
        "f8" => Element::F64,
        "u1" => Element::U8,
        "u2" => Element::U16,
        "i1" => Element::I8,
        "i2" => Element::I16,
        "i4" => Element::I32,
        "i8" => Element::I64,
        "b1" => Element::Bool,
        "u4" => Element::Other(4),
        "u8" | "c8" => Element::Other(8),
        "c16" | "f16" => Element::Other(16),
        _ => return Err(bad()),
    })
}

/// Elements of a Fortran-order array (first index fastest) in C order (last index fastest).
fn to_c_order(data: &[u8], shape: &[u64], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for extent in shape {
        strides.push(stride);
        stride = stride.saturating_mul(*extent as usize);
    }
    let mut index = vec![0u64; shape.len()];
    let mut at = 0;
    while out.len() < data.len() {
        out.extend_from_slice(&data[at..at + size]);
        // Counts up, the last index fastest.
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * index[d] as usize;
            index[d] = 0;
        }
    }
    out
}

/// A file of version 1.0 with these little-endian elements in C order.
pub fn write(descr: &str, shape: &[u64], data: &[u8]) -> Vec<u8> {
    let mut extents: String = shape.iter().map(|d| format!("{d}, ")).collect();
    if shape.len() > 1 {
        extents.truncate(extents.len() - 2);
    }
    let dictionary =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    // NumPy pads to a multiple of 64 bytes and ends the header with a line end.
    let length = (10 + dictionary.len() + 1).next_multiple_of(64) - 10;
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    // A tensor has few extents: its header is far below 64 KiB.
    out.extend((length as u16).to_le_bytes());
    out.extend(format!("{dictionary:<width$}\n", width = length - 1).bytes());
    out.extend_from_slice(data);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(name: &str, bytes: &[u8]) -> Result<Array, String> {
        let path = std::env::temp_dir().join(format!("tw-{}-{name}.npy", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let array = read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        array
    }

    fn file(dictionary: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((dictionary.len() as u16).to_le_bytes());
        out.extend(dictionary.bytes());
        out.extend(data);
        out
    }

    #[test]
    fn what_is_written_reads_back_aligned() {
        for shape in [&[][..], &[6], &[2, 3], &[1, 2, 3]] {
            let count: u64 = shape.iter().product();
            let data: Vec<u8> = (0..count as u8 * 4).collect();
            let bytes = write("<f4", shape, &data);
            assert_eq!((bytes.len() - data.len()) % 64, 0);
            let array = read_bytes("back", &bytes).unwrap();
            assert_eq!((array.element, &array.shape[..]), (Element::F32, shape));
            assert_eq!(array.data, data);
        }
        let bytes = write("<f4", &[3], &[]);
        let header = String::from_utf8_lossy(&bytes[10..]).into_owned();
        assert!(
            header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (3, ), }"),
            "{header}"
        );
        assert!(header.ends_with(" \n"));
    }

    #[test]
    fn byte_order_and_fortran_order_are_undone() {
        let big = file(
            "{'descr': '>u2', 'fortran_order': False, 'shape': (2,), }",
            &[1, 2, 3, 4],
        );
        assert_eq!(read_bytes("big", &big).unwrap().data, [2, 1, 4, 3]);
        // [[1, 2, 3], [4, 5, 6]] stored by columns.
        let fortran = file(
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }",
            &[1, 4, 2, 5, 3, 6],
        );
        assert_eq!(
            read_bytes("fortran", &fortran).unwrap().data,
            [1, 2, 3, 4, 5, 6]
        );
        // a[i, j, k] = 100 i + 10 j + k, shape (2, 2, 2).
        let cube = file(
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2, 2), }",
            &[0, 100, 10, 110, 1, 101, 11, 111],
        );
        let want = [0, 1, 10, 11, 100, 101, 110, 111];
        assert_eq!(read_bytes("cube", &cube).unwrap().data, want);
    }

    #[test]
    fn bad_files_say_what_is_wrong() {
        let plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
        for (bytes, word) in [
            (b"hello".to_vec(), "does not begin"),
            (b"\x93NUMPY".to_vec(), "ends inside"),
            (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "version 9"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "must end by"),
            (b"\x93NUMPY\x01\x00\xff\x00{".to_vec(), "ends inside"),
            (file("{}", &[]), "is not NumPy's"),
            (file(plain, &[0; 7]), "fewer than the 8 bytes"),
            (file(plain, &[0; 9]), "more than the 8 bytes"),
            (
                file(&plain.replace("'<f4'", "[('a', '<f4')]"), &[]),
                "records",
            ),
            (file(&plain.replace("<f4", "|O"), &[]), "not a plain number"),
            (file(&plain.replace("(2,)", "(-2,)"), &[]), "is not NumPy's"),
            (
                file(&plain.replace("(2,)", "(4294967296, 4294967296)"), &[]),
                "too large",
            ),
            (
                file(&plain.replace("False", "Maybe"), &[]),
                "is not NumPy's",
            ),
        ] {
            let error = read_bytes("bad", &bytes).unwrap_err();
            assert!(error.contains(word), "{error:?} for {word:?}");
        }
    }
}
