//! Checking a chip: every field against its row of the table, then the limits that span several fields.

use super::desc::{Chip, Mark};
use super::error::{ChipError, Place, Problem};
use super::fields::{FIELDS, Field, Value};
use super::{show, units};

/// A set of tiles is a 64-bit mask.
pub const MAX_TILES: u32 = 64;

impl Chip {
    /// Checks every field against its row, and the limits that span fields.
    pub fn validate(&self) -> Result<(), ChipError> {
        let set = |key: &str| {
            let field = Field::find(key)?;
            (self.marks.get(key) == Some(&Mark::CommandLine))
                .then(|| format!("{key}={}", show::value_text(self, field)))
        };
        self.check(set).map_err(|(key, problem)| ChipError {
            place: match set(key).or_else(|| self.overrides().next().and_then(|f| set(f.key))) {
                Some(text) => Place::Set(text),
                None => Place::File {
                    origin: format!("chip {}", self.name),
                    line: None,
                },
            },
            problem,
        })
    }

    /// The first broken rule, with the key to blame: of a pair of keys, the one that `changed` knows.
    pub(super) fn check(
        &self,
        changed: impl Fn(&str) -> Option<String>,
    ) -> Result<(), (&'static str, Problem)> {
        for field in FIELDS {
            if let Value::Int(value) = (field.get)(self) {
                units::check_limits(field, value, &units::display(field.unit, value)).map_err(
                    |problem| {
                        let key = field.key.to_string();
                        (field.key, Problem::BadValue { key, problem })
                    },
                )?;
            }
        }
        let blame = |first: &'static str, second: &'static str| {
            if changed(first).is_none() && changed(second).is_some() {
                second
            } else {
                first
            }
        };
        let conflict = |key: &'static str, limit: String| {
            let value = Field::find(key).map(|field| show::value_text(self, field));
            let value = value.unwrap_or_default();
            Err((key, Problem::Conflict { key, value, limit }))
        };
        if self.tiles() > MAX_TILES {
            return conflict(
                blame("tiles_per_cluster", "clusters"),
                format!(
                    "clusters x tiles_per_cluster = {} is above the limit of {MAX_TILES} (a tile mask has 64 bits)",
                    self.tiles()
                ),
            );
        }
        for (size, key) in [
            (self.tsram.size_bytes, "tsram.size"),
            (self.csram.size_bytes, "csram.size"),
        ] {
            if !size.is_multiple_of(u64::from(self.tsram.bank_bytes)) {
                let bank = self.tsram.bank_bytes;
                return conflict(key, format!("not a multiple of tsram.bank = {bank} B"));
            }
        }
        for (dma, train) in [(&self.dma, "dma.train"), (&self.cdma, "cdma.train")] {
            if !dma.train_bytes.is_multiple_of(dma.request_bytes) {
                let request = dma.request_bytes;
                return conflict(train, format!("not a multiple of the request, {request} B"));
            }
        }
        let timing = &self.hbm.timing;
        if self.hbm.interleave_bytes < timing.burst_bytes {
            let burst = timing.burst_bytes;
            return conflict("hbm.interleave", format!("below a burst of {burst} B"));
        }
        // A device that refreshes longer than it has between refreshes never answers.
        for (busy, key, interval) in [
            (timing.rfc_ck, "hbm.timing.rfc", timing.refi_ck),
            (timing.rfcpb_ck, "hbm.timing.rfcpb", timing.refi_ck),
        ] {
            if busy >= interval {
                return conflict(
                    key,
                    format!("not below the refresh interval, hbm.timing.refi = {interval} CK"),
                );
            }
        }
        Ok(())
    }
}
