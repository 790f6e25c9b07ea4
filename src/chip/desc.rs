//! The structs of a chip description: plain data with the unit in each field's name.
//!
//! What each number means, its limits and its key are in [`super::fields`]; where it comes from is in [`Chip::marks`].

use std::collections::BTreeMap;

use serde::Serialize;

use crate::num::dot::Accumulate;

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Published, or derived from published numbers by the stated formula.
    Source(String),
    /// Chosen by us, for the stated reason.
    Estimate(String),
    /// Given with `--set`.
    CommandLine,
}

/// One chip. Get one from [`Chip::preset`], [`Chip::load`] or [`Chip::from_toml`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chip {
    pub name: String,
    /// One line for `chip list`.
    pub summary: String,
    /// Clock of tiles, clusters and the networks on the chip.
    pub clock_hz: u64,
    pub clusters: u32,
    pub tiles_per_cluster: u32,
    pub power_w: u32,
    pub ttu: Ttu,
    pub tvp: Tvp,
    pub tsram: Tsram,
    pub csram: Csram,
    /// The DMA engine of a tile.
    pub dma: Dma,
    /// The DMA engine of a cluster.
    pub cdma: Dma,
    pub noc: Noc,
    pub hbm: Hbm,
    pub control: Control,
    pub queue: Queue,
    pub semaphores: Semaphores,
    pub network: Network,
    pub energy: Energy,
    /// Mark of every key of [`super::fields::FIELDS`].
    pub marks: BTreeMap<&'static str, Mark>,
}

/// Tensor unit of a tile: one block product per cycle.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ttu {
    pub block_rows: u32,
    pub block_cols: u32,
    pub k_fp4: u32,
    /// FP8 and FP6.
    pub k_fp8: u32,
    pub k_bf16: u32,
    pub accumulator_blocks: u32,
    pub latency_cycles: u32,
    /// Per operand; two such ports exist.
    pub operand_port_bytes: u32,
    pub result_port_bytes: u32,
    pub preload_port_bytes: u32,
    /// Each operand port keeps the last block it delivered; consecutive steps on that block do not read it again.
    pub operand_hold: bool,
    /// How products meet the accumulator: exactly, which is the architecture, or cut as silicon of other makers does, for studies
    /// of the error. Programs and cycles are the same.
    pub accumulate: Accumulate,
}

/// Vector processor of a tile.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tvp {
    pub lanes_32: u32,
    pub lanes_16: u32,
    pub arithmetic_slots: u32,
    pub special_slots: u32,
    pub load_slots: u32,
    pub store_slots: u32,
    pub scalar_slots: u32,
    pub arithmetic_latency_cycles: u32,
    pub special_latency_cycles: u32,
    pub load_latency_cycles: u32,
    /// Results per cycle of one special slot at 32 bit.
    pub special_per_cycle_32: u32,
    /// Results per cycle of one special slot at 16 bit.
    pub special_per_cycle_16: u32,
    pub launch_cycles: u32,
    pub loop_depth: u32,
}

/// SRAM of a tile.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tsram {
    pub size_bytes: u64,
    pub banks: u32,
    /// Width of a bank's port, and the interleave of the banks.
    pub bank_bytes: u32,
    pub dma_read_bytes: u32,
    pub dma_write_bytes: u32,
    pub tvp_load_bytes: u32,
    pub tvp_store_bytes: u32,
    pub latency_cycles: u32,
}

/// SRAM of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Csram {
    pub size_bytes: u64,
    pub read_bytes: u32,
    pub write_bytes: u32,
    pub latency_cycles: u32,
}

/// One DMA engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Dma {
    pub channels: u32,
    /// Requests in flight, over all channels.
    pub outstanding: u32,
    pub request_bytes: u32,
    pub setup_cycles: u32,
    /// Bytes of one descriptor that the engine issues and tracks together.
    pub train_bytes: u32,
}

/// Networks on the chip.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Noc {
    pub tile_port_bytes: u32,
    pub mesh_hop_cycles: u32,
    /// Latency of the crossbar inside a cluster.
    pub cluster_cycles: u32,
    pub cluster_port_bytes: u32,
    /// Latency of the crossbar between clusters and stacks.
    pub global_cycles: u32,
    pub stack_port_bytes: u32,
}

/// HBM of the chip.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hbm {
    pub stacks: u32,
    pub channels_per_stack: u32,
    /// Name of the device table that `timing` came from, one of [`super::DEVICES`].
    pub device: String,
    /// Which model of its channels times a run.
    pub model: ChannelModel,
    pub refresh: Refresh,
    /// Bytes of consecutive addresses in one channel.
    pub interleave_bytes: u32,
    /// Where a channel's bursts lie in the exact model: a name or digits, see [`super::mapping`].
    pub mapping: String,
    /// Bursts that a channel's controller can hold for reading.
    pub read_queue: u32,
    /// Bursts that a channel's controller can hold for writing.
    pub write_queue: u32,
    /// Share of the write queue at which writes start to drain.
    pub write_high_permille: u32,
    /// Share of the write queue at which they stop.
    pub write_low_permille: u32,
    pub path: HbmPath,
    pub timing: HbmDevice,
}

/// How the channels of the HBM are modelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelModel {
    /// In closed form: data bus, open rows, activation rate, refresh, turnaround.
    #[default]
    FirstOrder,
    /// Controller and device, command by command.
    Exact,
}

impl ChannelModel {
    /// Names on the command line, in TOML and in reports.
    pub const NAMES: &'static [&'static str] = &["first-order", "exact"];

    /// The model's name.
    pub fn name(self) -> &'static str {
        match self {
            ChannelModel::FirstOrder => "first-order",
            ChannelModel::Exact => "exact",
        }
    }

    /// The model of a name.
    pub fn from_name(name: &str) -> Option<ChannelModel> {
        Some(match name {
            "first-order" => ChannelModel::FirstOrder,
            "exact" => ChannelModel::Exact,
            _ => return None,
        })
    }
}

/// Refresh mode of the HBM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    None,
    /// All banks of a stack ID at once.
    Ab,
    /// Per bank; the channel waits while one is due.
    PbBlocking,
    /// Per bank; only the refreshing bank waits.
    #[default]
    PbBank,
}

impl Refresh {
    /// Names on the command line, in TOML and in reports.
    pub const NAMES: &'static [&'static str] = &["none", "ab", "pb-blocking", "pb-bank"];

    /// The mode's name.
    pub fn name(self) -> &'static str {
        match self {
            Refresh::None => "none",
            Refresh::Ab => "ab",
            Refresh::PbBlocking => "pb-blocking",
            Refresh::PbBank => "pb-bank",
        }
    }

    /// The mode of a name.
    pub fn from_name(name: &str) -> Option<Refresh> {
        Some(match name {
            "none" => Refresh::None,
            "ab" => Refresh::Ab,
            "pb-blocking" => Refresh::PbBlocking,
            "pb-bank" => Refresh::PbBank,
            _ => return None,
        })
    }
}

/// Latency of a read outside the DRAM: everything between a DMA engine's port and the device's commands and data.
///
/// The NoC's share is inside (`request_noc_ns`, `return_noc_ns`): HBM traffic does not add `noc.cluster` and
/// `noc.global` cycles to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HbmPath {
    pub translate_ns: u32,
    pub request_noc_ns: u32,
    pub controller_front_ns: u32,
    pub phy_out_ns: u32,
    pub phy_back_ns: u32,
    pub controller_back_ns: u32,
    pub return_noc_ns: u32,
}

impl HbmPath {
    /// Sum of the parts before the DRAM, in ns.
    pub fn request_ns(&self) -> u32 {
        self.translate_ns + self.request_noc_ns + self.controller_front_ns + self.phy_out_ns
    }

    /// Sum of the parts after the DRAM, in ns.
    pub fn return_ns(&self) -> u32 {
        self.phy_back_ns + self.controller_back_ns + self.return_noc_ns
    }

    /// Sum of all parts, in ns.
    pub fn total_ns(&self) -> u32 {
        self.request_ns() + self.return_ns()
    }
}

/// Timing and geometry of one HBM channel. CK is the command clock: four data bits per pin.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HbmDevice {
    pub tck_ps: u32,
    pub bl_ck: u32,
    pub cl_ck: u32,
    pub cwl_ck: u32,
    pub rcdrd_ck: u32,
    pub rcdwr_ck: u32,
    pub rp_ck: u32,
    pub ras_ck: u32,
    pub rc_ck: u32,
    pub wr_ck: u32,
    pub rtp_ck: u32,
    pub ccds_ck: u32,
    pub ccdl_ck: u32,
    pub ccdr_ck: u32,
    pub rrds_ck: u32,
    pub rrdl_ck: u32,
    pub faw_ck: u32,
    pub wtrs_ck: u32,
    pub wtrl_ck: u32,
    pub rtw_ck: u32,
    pub ppd_ck: u32,
    pub rfc_ck: u32,
    pub rfcpb_ck: u32,
    pub rrefd_ck: u32,
    pub refi_ck: u32,
    pub refipb_ck: u32,
    pub pseudo_channels: u32,
    /// Stack IDs (ranks) per channel.
    pub sids: u32,
    pub bank_groups: u32,
    pub banks_per_group: u32,
    pub rows: u32,
    /// Bursts per row of a pseudo channel.
    pub columns: u32,
    /// Bytes of one burst of a pseudo channel.
    pub burst_bytes: u32,
    /// Row command bus held by an ACT, in half CK.
    pub act_bus_half_ck: u32,
    /// Row command bus held by a PRE or a refresh, in half CK.
    pub pre_bus_half_ck: u32,
    /// Column command bus held by a read or write, in half CK.
    pub rdwr_bus_half_ck: u32,
}

impl HbmDevice {
    /// Data rate of a pin in Mb/s, rounded down: four bits per CK.
    pub fn rate_mbps(&self) -> u32 {
        4_000_000 / self.tck_ps.max(1)
    }

    /// Banks of a pseudo channel, over all stack IDs.
    pub fn banks(&self) -> u32 {
        self.sids * self.bank_groups * self.banks_per_group
    }

    /// CK in which every bank is refreshed once: tREFI, rounded up to a whole number for each bank.
    pub fn refresh_round_ck(&self) -> u32 {
        let banks = self.banks().max(1);
        self.refi_ck.div_ceil(banks) * banks
    }

    /// Least CK from the end of an all-bank refresh to the next that let a row be opened, accessed and closed.
    pub fn refresh_gap_ck(&self) -> u32 {
        let read = self.rcdrd_ck + self.rtp_ck;
        let write = self.rcdwr_ck + self.cwl_ck + self.bl_ck + self.wr_ck;
        self.ras_ck.max(read).max(write) + self.rp_ck
    }

    /// Bytes of one row of a pseudo channel.
    pub fn row_bytes(&self) -> u32 {
        self.columns * self.burst_bytes
    }

    /// Bytes of a pseudo channel.
    pub fn pseudo_channel_bytes(&self) -> u64 {
        u64::from(self.banks()) * u64::from(self.rows) * u64::from(self.row_bytes())
    }

    /// Bytes of a channel.
    pub fn channel_bytes(&self) -> u64 {
        u64::from(self.pseudo_channels) * self.pseudo_channel_bytes()
    }
}

/// Control processors and the latency of semaphore messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Control {
    pub instruction_cycles: u32,
    pub load_cycles: u32,
    /// Signal between units of one tile.
    pub tile_signal_cycles: u32,
    pub cluster_signal_cycles: u32,
    pub chip_signal_cycles: u32,
}

/// The in-order queue in front of each engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Queue {
    pub depth: u32,
    pub push_cycles: u32,
}

/// Semaphores of a tile, and of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Semaphores {
    pub count: u32,
    pub bits: u32,
    /// Most waits, and most signals, of one macro-instruction.
    pub per_op: u32,
}

/// Network between chips.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Network {
    pub ports: u32,
    pub port_gbps: u32,
    pub mtu_bytes: u32,
    /// Share of the line rate lost to headers and acknowledgements.
    pub overhead_permille: u32,
    pub tray_latency_ns: u32,
    pub switched_latency_ns: u32,
}

/// Energy per unit of work, with the unit's share of SRAM and NoC inside.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Energy {
    pub network_fj_per_bit: u32,
    pub hbm_fj_per_bit: u32,
    pub ttu_fp4_fj_per_flop: u32,
    /// FP8 and FP6.
    pub ttu_fp8_fj_per_flop: u32,
    pub ttu_bf16_fj_per_flop: u32,
    pub tvp_fj_per_flop: u32,
    pub static_mw: u32,
}

impl Chip {
    /// Tiles of the chip.
    pub fn tiles(&self) -> u32 {
        self.clusters * self.tiles_per_cluster
    }

    /// HBM channels of the chip.
    pub fn hbm_channels(&self) -> u32 {
        self.hbm.stacks * self.hbm.channels_per_stack
    }

    /// Bytes of HBM of the chip.
    pub fn hbm_bytes(&self) -> u64 {
        u64::from(self.hbm_channels()) * self.hbm.timing.channel_bytes()
    }

    /// Bytes of SRAM of the chip, TSRAM and CSRAM.
    pub fn sram_bytes(&self) -> u64 {
        u64::from(self.tiles()) * self.tsram.size_bytes
            + u64::from(self.clusters) * self.csram.size_bytes
    }

    /// A chip with every number zero and no marks: what loading fills.
    pub(super) fn blank() -> Chip {
        Chip {
            name: String::new(),
            summary: String::new(),
            clock_hz: 0,
            clusters: 0,
            tiles_per_cluster: 0,
            power_w: 0,
            ttu: Ttu::default(),
            tvp: Tvp::default(),
            tsram: Tsram::default(),
            csram: Csram::default(),
            dma: Dma::default(),
            cdma: Dma::default(),
            noc: Noc::default(),
            hbm: Hbm::default(),
            control: Control::default(),
            queue: Queue::default(),
            semaphores: Semaphores::default(),
            network: Network::default(),
            energy: Energy::default(),
            marks: BTreeMap::new(),
        }
    }
}
