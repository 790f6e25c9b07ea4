//! Requests to one channel from a file.
//!
//! One burst a line: `<CK, may end in .5> R|W <byte address within the channel, decimal or 0x, 32 B aligned>`; r and w mean the same; empty
//! lines and lines that begin with `#` are skipped; a file that begins with the gzip magic is unpacked as it is read; the path `-` is
//! stdin. Times do not decrease. Invariant: memory does not grow with the file, and a bad line is one error with its number.

use super::patterns::Access;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longest line that is read, in bytes.
const LINE_LIMIT: u64 = 4096;
/// Characters of a bad line that a message shows.
const SHOWN: usize = 60;
/// The path that means stdin.
pub const STDIN: &str = "-";
/// Latest time, in CK: a thousand simulated days, and far from overflow.
const LAST_CK: u64 = 1 << 58;

/// Why a trace is refused.
#[derive(Debug, thiserror::Error)]
pub enum TraceFileError {
    #[error("cannot open {path}: {error}", path = path.display())]
    Open {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{path}:{line}: {problem}", path = path.display())]
    Line {
        path: PathBuf,
        line: u64,
        problem: String,
    },
}

/// A trace as it is read.
pub struct TraceFile {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    line: u64,
    buffer: Vec<u8>,
    last: u64,
    channel_bytes: u64,
    line_bytes: u64,
    failed: bool,
}

impl TraceFile {
    /// Opens a trace of a channel of so many bytes in lines of so many.
    pub fn open(
        path: &Path,
        channel_bytes: u64,
        line_bytes: u64,
    ) -> Result<TraceFile, TraceFileError> {
        let failed = |error| TraceFileError::Open {
            path: path.to_owned(),
            error,
        };
        let input: Box<dyn Read + Send> = match path.as_os_str() == STDIN {
            true => Box::new(std::io::stdin()),
            false => Box::new(File::open(path).map_err(failed)?),
        };
        let mut file = BufReader::with_capacity(1 << 16, input);
        let packed = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead + Send> = match packed {
            true => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))),
            false => Box::new(file),
        };
        Ok(TraceFile {
            path: path.to_owned(),
            reader,
            line: 0,
            buffer: Vec::new(),
            last: 0,
            channel_bytes,
            line_bytes,
            failed: false,
        })
    }

    fn read_line(&mut self) -> Result<Option<Access>, String> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let mut limited = (&mut self.reader).take(LINE_LIMIT + 1);
            let read = limited.read_until(b'\n', &mut self.buffer);
            if read.map_err(|error| format!("cannot read: {error}"))? == 0 {
                return Ok(None);
            }
            if self.buffer.len() as u64 > LINE_LIMIT {
                return Err(format!("a line of more than {LINE_LIMIT} bytes"));
            }
            let text = std::str::from_utf8(&self.buffer).map_err(|_| "not text".to_owned())?;
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let access = parse(text, self.channel_bytes, self.line_bytes)?;
            let at = access.at.unwrap_or(0);
            if at < self.last {
                return Err(format!(
                    "time {} CK is before the line above, {} CK",
                    ck(at),
                    ck(self.last)
                ));
            }
            self.last = at;
            return Ok(Some(access));
        }
    }
}

impl Iterator for TraceFile {
    type Item = Result<Access, TraceFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = self.read_line().map_err(|problem| TraceFileError::Line {
            path: self.path.clone(),
            line: self.line,
            problem,
        });
        self.failed = result.is_err();
        result.transpose()
    }
}

fn ck(half: u64) -> f64 {
    half as f64 / 2.0
}

fn parse(text: &str, channel_bytes: u64, line_bytes: u64) -> Result<Access, String> {
    let mut words = text.split_whitespace();
    let (Some(time), Some(way), Some(address), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        let shown: String = text.chars().take(SHOWN).collect();
        return Err(format!(
            "a line is `<CK> R|W <byte address>`, not `{shown}`"
        ));
    };
    // Zeros at the end of a fraction say nothing.
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let half = match fraction.trim_end_matches('0') {
        "5" => Some(1),
        "" if !fraction.is_empty() => Some(0),
        _ => None,
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let whole = whole.parse::<u64>().ok().filter(|_| digits(whole));
    let (Some(whole), Some(half)) = (whole.filter(|&ck| ck <= LAST_CK), half) else {
        return Err(format!(
            "time `{time}` is not a number of CK up to {LAST_CK} that may end in .5"
        ));
    };
    let write = match way {
        "R" | "r" => false,
        "W" | "w" => true,
        _ => return Err(format!("`{way}` is neither R nor W")),
    };
    let hex = address.strip_prefix("0x").or(address.strip_prefix("0X"));
    let (text, radix) = hex.map_or((address, 10), |hex| (hex, 16));
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return Err(format!("address `{address}` is not a number"));
    }
    // What does not fit 64 bits lies past every channel.
    let number = u64::from_str_radix(text, radix).unwrap_or(u64::MAX);
    if number >= channel_bytes {
        return Err(format!(
            "address {address} past the channel of {channel_bytes:#x} bytes"
        ));
    }
    if !number.is_multiple_of(line_bytes) {
        return Err(format!("address {address} is not {line_bytes} B aligned"));
    }
    Ok(Access {
        at: Some(2 * whole + half),
        line: number / line_bytes,
        write,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn temporary(name: &str, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tilewright-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn read(path: &Path) -> Result<Vec<Access>, TraceFileError> {
        TraceFile::open(path, 1 << 20, 32)?.collect()
    }

    #[test]
    fn plain_and_packed_files_read_the_same() {
        let text = b"# a comment\n0 R 0\n\n0.50 W 0x20\n7.0 r 64";
        let plain = temporary("plain", text);
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        packer.write_all(text).unwrap();
        let packed = temporary("packed", &packer.finish().unwrap());
        let want = [(0, 0, false), (1, 1, true), (14, 2, false)].map(|(at, line, write)| Access {
            at: Some(at),
            line,
            write,
        });
        assert_eq!(read(&plain).unwrap(), want);
        assert_eq!(read(&packed).unwrap(), want);
        for path in [plain, packed] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn bad_lines_are_one_error_with_their_number() {
        for (at, (text, want)) in [
            (
                "0 R 0\n3 R",
                "2: a line is `<CK> R|W <byte address>`, not `3 R`",
            ),
            (
                "0 R 0 9",
                "1: a line is `<CK> R|W <byte address>`, not `0 R 0 9`",
            ),
            (
                "1. R 0",
                "1: time `1.` is not a number of CK up to 288230376151711744 that may end in .5",
            ),
            (
                "1 R 0x10000000000000000",
                "1: address 0x10000000000000000 past the channel of 0x100000 bytes",
            ),
            (
                "x R 0",
                "1: time `x` is not a number of CK up to 288230376151711744 that may end in .5",
            ),
            (
                "1.25 R 0",
                "1: time `1.25` is not a number of CK up to 288230376151711744 that may end in .5",
            ),
            (
                "-1 R 0",
                "1: time `-1` is not a number of CK up to 288230376151711744 that may end in .5",
            ),
            ("1 X 0", "1: `X` is neither R nor W"),
            ("1 R zero", "1: address `zero` is not a number"),
            ("1 R -32", "1: address `-32` is not a number"),
            (
                "1 R 0x100000",
                "1: address 0x100000 past the channel of 0x100000 bytes",
            ),
            ("1 R 33", "1: address 33 is not 32 B aligned"),
            (
                "5 R 0\n\n4.5 R 0",
                "3: time 4.5 CK is before the line above, 5 CK",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let path = temporary(&format!("bad{at}"), text.as_bytes());
            let error = read(&path).unwrap_err().to_string();
            assert!(error.ends_with(want), "{error}\n{want}");
            std::fs::remove_file(path).unwrap();
        }
        let long = temporary("long", &[b'1'; 5000]);
        assert!(
            read(&long)
                .unwrap_err()
                .to_string()
                .contains("more than 4096 bytes")
        );
        std::fs::remove_file(long).unwrap();
        let broken = temporary("broken", &[0x1f, 0x8b, 8, 0, 0, 0]);
        assert!(
            read(&broken)
                .unwrap_err()
                .to_string()
                .contains("cannot read")
        );
        std::fs::remove_file(broken).unwrap();
    }
}
