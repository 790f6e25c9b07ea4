//! Checking a chip: every field against its row of the table, then the limits that span several fields.

use super::desc::{Chip, Mark};
use super::error::{ChipError, Place, Problem};
use super::fields::{FIELDS, Field, Value};
use super::mapping::{self, Digits};
use super::{show, units};

/// A set of tiles is a 64-bit mask.
pub const MAX_TILES: u32 = 64;

/// A broken rule and the keys that it spans, the one to blame first.
pub(super) struct Fault {
    pub keys: [&'static str; 2],
    pub problem: Problem,
}

impl Chip {
    /// Checks every field against its row, and the limits that span fields.
    pub fn validate(&self) -> Result<(), ChipError> {
        let is_set = |key: &str| self.marks.get(key) == Some(&Mark::CommandLine);
        self.check(is_set).map_err(|fault| ChipError {
            place: match fault
                .keys
                .into_iter()
                .find(|key| is_set(key))
                .and_then(Field::find)
            {
                Some(field) => {
                    Place::Set(format!("{}={}", field.key, show::value_text(self, field)))
                }
                None => Place::File {
                    origin: format!("chip {}", self.name),
                    line: None,
                },
            },
            problem: Box::new(fault.problem),
        })
    }

    /// The first broken rule. Of two keys that can both be blamed, the one that `changed` knows comes first.
    pub(super) fn check(&self, changed: impl Fn(&str) -> bool) -> Result<(), Fault> {
        for field in FIELDS {
            if let Value::Int(value) = (field.get)(self) {
                units::check_limits(field, value, &units::display(field.unit, value)).map_err(
                    |problem| Fault {
                        keys: [field.key; 2],
                        problem: Problem::BadValue {
                            key: field.key.to_string(),
                            problem,
                        },
                    },
                )?;
            }
        }
        if self.tiles() > MAX_TILES {
            let [first, second] = if changed("clusters") && !changed("tiles_per_cluster") {
                ["clusters", "tiles_per_cluster"]
            } else {
                ["tiles_per_cluster", "clusters"]
            };
            return self.conflict(
                first,
                second,
                format!(
                    "clusters x tiles_per_cluster = {} is above the limit of {MAX_TILES} (a tile mask has 64 bits)",
                    self.tiles()
                ),
            );
        }
        let bank = self.tsram.bank_bytes;
        for (size, key) in [
            (self.tsram.size_bytes, "tsram.size"),
            (self.csram.size_bytes, "csram.size"),
        ] {
            if !size.is_multiple_of(u64::from(bank)) {
                let limit = format!("not a multiple of tsram.bank = {bank} B");
                return self.conflict(key, "tsram.bank", limit);
            }
        }
        for (dma, key, request_key) in [
            (&self.dma, "dma.train", "dma.request"),
            (&self.cdma, "cdma.train", "cdma.request"),
        ] {
            let request = dma.request_bytes;
            if !dma.train_bytes.is_multiple_of(request) {
                let limit = format!("not a multiple of {request_key} = {request} B");
                return self.conflict(key, request_key, limit);
            }
        }
        let timing = &self.hbm.timing;
        let burst = timing.burst_bytes;
        if self.hbm.interleave_bytes < burst {
            let limit = format!("below a burst, hbm.timing.burst = {burst} B");
            return self.conflict("hbm.interleave", "hbm.timing.burst", limit);
        }
        // A device that refreshes longer than it has between refreshes never answers.
        let interval = timing.refi_ck;
        for (busy, key) in [
            (timing.rfc_ck, "hbm.timing.rfc"),
            (timing.rfcpb_ck, "hbm.timing.rfcpb"),
        ] {
            if busy >= interval {
                let limit =
                    format!("not below the refresh interval, hbm.timing.refi = {interval} CK");
                return self.conflict(key, "hbm.timing.refi", limit);
            }
        }
        let most = interval.saturating_sub(timing.refresh_gap_ck());
        if timing.rfc_ck > most {
            let limit = format!(
                "above {most} CK: a row is opened, accessed and closed between two refreshes, hbm.timing.refi = {interval} CK apart"
            );
            return self.conflict("hbm.timing.rfc", "hbm.timing.refi", limit);
        }
        let sizes = mapping::sizes(timing);
        if let Err(error) = Digits::parse(&mapping::list(&self.hbm), &sizes) {
            return self.conflict("hbm.mapping", "hbm.device", error.to_string());
        }
        self.check_timing()?;
        self.check_bank_refresh(changed)
    }

    /// Banks that are refreshed one by one all have their turn in a refresh interval, rounded up to whole CK of each.
    fn check_bank_refresh(&self, changed: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let t = &self.hbm.timing;
        let (banks, most) = (t.banks(), t.refi_ck.div_ceil(t.banks()));
        if t.refipb_ck > most {
            let shape = [
                "hbm.timing.sids",
                "hbm.timing.bank_groups",
                "hbm.timing.banks_per_group",
            ];
            let other = shape.into_iter().find(|key| changed(key));
            let limit = format!(
                "above {most} CK, refi = {} CK / {banks} banks rounded up: banks would miss their refresh",
                t.refi_ck
            );
            return self.conflict(
                "hbm.timing.refipb",
                other.unwrap_or("hbm.timing.refi"),
                limit,
            );
        }
        // A stack ID alone begins again only when its last bank is done.
        let last = t.refipb_ck.max(t.rfcpb_ck + t.pseudo_channels);
        let round = t.refipb_ck * (banks - 1) + last;
        if t.sids == 1 && round > most * banks {
            let limit = format!(
                "the banks of the only stack ID take {round} CK in turn, above refi = {} CK",
                t.refi_ck
            );
            return self.conflict("hbm.timing.rfcpb", "hbm.timing.refi", limit);
        }
        Ok(())
    }

    /// Timing tables that contradict themselves: a later command would be legal before one that it must follow.
    fn check_timing(&self) -> Result<(), Fault> {
        let t = &self.hbm.timing;
        let banks_per_sid = t.bank_groups * t.banks_per_group;
        // Key, its value, what it must not be below, in words, and the other key to blame.
        let least = [
            (
                "hbm.timing.rc",
                t.rc_ck,
                t.ras_ck + t.rp_ck,
                "ras + rp",
                "hbm.timing.ras",
            ),
            (
                "hbm.timing.ras",
                t.ras_ck,
                t.rcdrd_ck.min(t.rcdwr_ck),
                "the lower of rcdrd and rcdwr",
                "hbm.timing.rcdrd",
            ),
            (
                "hbm.timing.ccds",
                t.ccds_ck,
                t.bl_ck,
                "a burst, bl",
                "hbm.timing.bl",
            ),
            (
                "hbm.timing.ccdl",
                t.ccdl_ck,
                t.ccds_ck,
                "ccds",
                "hbm.timing.ccds",
            ),
            (
                "hbm.timing.ccdr",
                t.ccdr_ck,
                t.ccds_ck,
                "ccds",
                "hbm.timing.ccds",
            ),
            (
                "hbm.timing.rrdl",
                t.rrdl_ck,
                t.rrds_ck,
                "rrds",
                "hbm.timing.rrds",
            ),
            (
                "hbm.timing.faw",
                t.faw_ck,
                t.rrds_ck,
                "rrds",
                "hbm.timing.rrds",
            ),
            (
                "hbm.timing.wtrl",
                t.wtrl_ck,
                t.wtrs_ck,
                "wtrs",
                "hbm.timing.wtrs",
            ),
            (
                "hbm.timing.rtw",
                t.rtw_ck,
                (t.cl_ck + t.bl_ck).saturating_sub(t.cwl_ck),
                "cl + bl - cwl",
                "hbm.timing.cl",
            ),
            ("hbm.timing.rfc", t.rfc_ck, t.rp_ck, "rp", "hbm.timing.rp"),
            (
                "hbm.timing.rfcpb",
                t.rfcpb_ck,
                t.rrefd_ck,
                "rrefd",
                "hbm.timing.rrefd",
            ),
            (
                "hbm.timing.refi",
                t.refi_ck,
                t.refipb_ck,
                "refipb",
                "hbm.timing.refipb",
            ),
            (
                "hbm.timing.refipb",
                t.refipb_ck,
                t.rrefd_ck,
                "rrefd",
                "hbm.timing.rrefd",
            ),
        ];
        for (key, value, limit, what, other) in least {
            if value < limit {
                return self.conflict(key, other, format!("below {what} = {limit} CK"));
            }
        }
        // Every bank of a stack ID is refreshed once in as many intervals.
        let round = t.refipb_ck.saturating_mul(banks_per_sid);
        if t.rfcpb_ck >= round {
            let limit = format!(
                "not below refipb x {banks_per_sid} banks of a stack ID = {round} CK: refresh would never catch up"
            );
            return self.conflict("hbm.timing.rfcpb", "hbm.timing.refipb", limit);
        }
        Ok(())
    }

    fn conflict(&self, key: &'static str, other: &'static str, limit: String) -> Result<(), Fault> {
        let value = Field::find(key).map(|field| show::value_text(self, field));
        let value = value.unwrap_or_default();
        Err(Fault {
            keys: [key, other],
            problem: Problem::Conflict { key, value, limit },
        })
    }
}
