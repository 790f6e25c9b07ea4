//! Plain-text tables: columns as wide as their widest cell, numbers to the right.

/// A table under construction. Invariant: every row has as many cells as there are headings.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Heading and whether the column is aligned to the right.
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; a heading that starts with `>` aligns its column to the right.
    pub fn new(headings: &[&str]) -> Table {
        let column = |h: &&str| match h.strip_prefix('>') {
            Some(name) => (name.to_owned(), true),
            None => ((*h).to_owned(), false),
        };
        Table {
            columns: headings.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().take(self.columns.len()).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// The table as lines; a table without headings shows none.
    pub fn text(&self) -> String {
        let chars = |s: &String| s.chars().count();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().map(|r| chars(&r[i]));
                cells.max().unwrap_or(0).max(chars(&self.columns[i].0))
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &String>| {
            let mut line = String::new();
            for ((cell, (_, right)), width) in cells.zip(&self.columns).zip(&widths) {
                let pad = " ".repeat(width - chars(cell));
                let parts = if *right { [&pad, cell] } else { [cell, &pad] };
                parts.iter().for_each(|p| line.push_str(p));
                line.push_str("  ");
            }
            line.truncate(line.trim_end().len());
            line.push('\n');
            line
        };
        let mut out = String::new();
        if self.columns.iter().any(|(name, _)| !name.is_empty()) {
            out.push_str(&line(&mut self.columns.iter().map(|(name, _)| name)));
        }
        for row in &self.rows {
            out.push_str(&line(&mut row.iter()));
        }
        out
    }
}

/// A number with `,` between groups of three digits.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds with three or four digits and a fitting unit.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.3} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.3} us", s * 1e6),
        s if s >= 1e-9 || s <= 0.0 => format!("{:.1} ns", s * 1e9),
        s => format!("{:.3} ps", s * 1e12),
    }
}

/// Joules with four digits and a fitting unit.
pub fn joules(energy: f64) -> String {
    match energy {
        e if e >= 1.0 => format!("{e:.3} J"),
        e if e >= 1e-3 => format!("{:.3} mJ", e * 1e3),
        e => format!("{:.3} uJ", e * 1e6),
    }
}

/// Bytes with a binary unit.
pub fn bytes(value: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value} B"),
        _ => format!("{scaled:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["engine", ">busy", "why"]);
        table.row(["ttu".into(), "100.0".into(), "x".into()]);
        table.row(["tvp".into(), "3.5".into()]);
        assert_eq!(
            table.text(),
            "engine   busy  why\nttu     100.0  x\ntvp       3.5\n"
        );
        let mut bare = Table::new(&["", ""]);
        bare.row(["a".into(), "b".into()]);
        assert_eq!(bare.text(), "a  b\n");
    }

    #[test]
    fn numbers_read_well() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(grouped(value), text);
        }
        for (value, text) in [
            (2.5, "2.50 s"),
            (2.5e-3, "2.500 ms"),
            (2.5e-6, "2.500 us"),
            (2.5e-9, "2.5 ns"),
            (0.0, "0.0 ns"),
        ] {
            assert_eq!(duration(value), text);
        }
        for (value, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB")] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(bytes(u64::MAX), "17179869184.0 GiB");
    }
}
