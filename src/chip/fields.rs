//! The table of keys: one row per number of a chip description.
//!
//! A row's key is the path of its field in [`Chip`] without the unit suffix (`tsram.size` is `tsram.size_bytes`). Limits are
//! inclusive and in the field's own unit. They keep every product of the formulas in [`super::cost`] inside 64 bits and
//! every table that a simulation allocates small; they are no statement about what can be built.

use super::desc::{ChannelModel, Chip, Refresh};
use super::load::DEVICES;
use super::units::Unit;
use crate::num::dot::Accumulate;

/// A value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// In the unit of the row.
    Int(u64),
    Flag(bool),
    Name(String),
}

/// One row.
pub struct Field {
    pub key: &'static str,
    pub unit: Unit,
    pub min: u64,
    pub max: u64,
    pub power_of_two: bool,
    pub doc: &'static str,
    pub get: fn(&Chip) -> Value,
    /// Stores a value of the row's kind; a value of another kind is ignored ([`super::units::parse`] never makes one).
    pub set: fn(&mut Chip, &Value),
}

impl Field {
    /// The row of a key.
    pub fn find(key: &str) -> Option<&'static Field> {
        FIELDS.iter().find(|field| field.key == key)
    }

    /// Whether the number comes with the HBM device unless a file sets it.
    pub fn of_device(&self) -> bool {
        self.key.starts_with(DEVICE_PREFIX)
    }
}

/// What keys of the HBM device table begin with.
pub const DEVICE_PREFIX: &str = "hbm.timing.";

trait Number: Copy {
    fn to_u64(self) -> u64;
    fn from_u64(value: u64) -> Self;
}

impl Number for u64 {
    fn to_u64(self) -> u64 {
        self
    }
    fn from_u64(value: u64) -> u64 {
        value
    }
}

impl Number for u32 {
    fn to_u64(self) -> u64 {
        u64::from(self)
    }
    fn from_u64(value: u64) -> u32 {
        u32::try_from(value).unwrap_or(u32::MAX)
    }
}

macro_rules! number {
    ($key:literal, $($path:ident).+, $unit:ident, $min:expr, $max:expr, $doc:literal) => {
        number!(@ $key, $($path).+, $unit, $min, $max, false, $doc)
    };
    ($key:literal, $($path:ident).+, $unit:ident, $min:expr, $max:expr, pow2, $doc:literal) => {
        number!(@ $key, $($path).+, $unit, $min, $max, true, $doc)
    };
    (@ $key:literal, $($path:ident).+, $unit:ident, $min:expr, $max:expr, $pow2:literal, $doc:literal) => {
        Field {
            key: $key,
            unit: Unit::$unit,
            min: $min,
            max: $max,
            power_of_two: $pow2,
            doc: $doc,
            get: |chip| Value::Int(chip.$($path).+.to_u64()),
            set: |chip, value| {
                if let Value::Int(value) = value {
                    chip.$($path).+ = Number::from_u64(*value);
                }
            },
        }
    };
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every key, in the order of `chip show`. `clock` comes first because widths may be given in bytes per second, and
/// `hbm.device` before `hbm.timing.*` because it sets them.
#[rustfmt::skip]
pub static FIELDS: &[Field] = &[
    number!("clock", clock_hz, Hertz, 1_000_000, 10_000_000_000, "clock of tiles, clusters and the networks on the chip"),
    number!("clusters", clusters, Count, 1, 64, "clusters on the chip"),
    number!("tiles_per_cluster", tiles_per_cluster, Count, 1, 64, "tiles in a cluster"),
    number!("power", power_w, Watts, 1, 100_000, "power of the chip at full load"),

    number!("ttu.block_rows", ttu.block_rows, Count, 32, 32, "rows of a block product; the instruction set fixes them"),
    number!("ttu.block_cols", ttu.block_cols, Count, 32, 32, "columns of a block product; the instruction set fixes them"),
    number!("ttu.k_fp4", ttu.k_fp4, Count, 1, 512, "depth of a block product for FP4 operands"),
    number!("ttu.k_fp8", ttu.k_fp8, Count, 1, 512, "depth of a block product for FP8 and FP6 operands"),
    number!("ttu.k_bf16", ttu.k_bf16, Count, 1, 512, "depth of a block product for BF16 operands"),
    number!("ttu.accumulator_blocks", ttu.accumulator_blocks, Count, 1, 4096, "FP32 blocks in the accumulator RAM"),
    number!("ttu.latency", ttu.latency_cycles, Cycles, 1, 4096, "from operands to a visible result"),
    number!("ttu.operand_port", ttu.operand_port_bytes, BytesPerCycle, 1, 16 * KIB, "TSRAM read port of one operand, two exist"),
    number!("ttu.result_port", ttu.result_port_bytes, BytesPerCycle, 1, 16 * KIB, "TSRAM write port of results"),
    number!("ttu.preload_port", ttu.preload_port_bytes, BytesPerCycle, 1, 16 * KIB, "TSRAM read port that fills accumulators"),
    Field {
        key: "ttu.operand_hold",
        unit: Unit::Flag,
        min: 0,
        max: 1,
        power_of_two: false,
        doc: "each operand port keeps the last block it delivered and does not read it again for the next step",
        get: |chip| Value::Flag(chip.ttu.operand_hold),
        set: |chip, value| {
            if let Value::Flag(value) = value {
                chip.ttu.operand_hold = *value;
            }
        },
    },
    Field {
        key: "ttu.accumulate",
        unit: Unit::Accumulate,
        min: 0,
        max: 0,
        power_of_two: false,
        doc: "how products meet the accumulator: `exact`, or `truncate:N` fractional bits as some silicon does",
        get: |chip| Value::Name(chip.ttu.accumulate.to_string()),
        set: |chip, value| {
            if let Value::Name(value) = value
                && let Some(accumulate) = Accumulate::parse(value)
            {
                chip.ttu.accumulate = accumulate;
            }
        },
    },

    number!("tvp.lanes_32", tvp.lanes_32, Count, 1, 4096, "lanes of 32 bit"),
    number!("tvp.lanes_16", tvp.lanes_16, Count, 1, 4096, "lanes of up to 16 bit"),
    number!("tvp.arithmetic_slots", tvp.arithmetic_slots, Count, 1, 16, "arithmetic (FMA) instructions per cycle"),
    number!("tvp.special_slots", tvp.special_slots, Count, 1, 16, "special-function instructions per cycle"),
    number!("tvp.load_slots", tvp.load_slots, Count, 1, 16, "loads per cycle"),
    number!("tvp.store_slots", tvp.store_slots, Count, 1, 16, "stores per cycle"),
    number!("tvp.scalar_slots", tvp.scalar_slots, Count, 1, 16, "scalar instructions per cycle"),
    number!("tvp.arithmetic_latency", tvp.arithmetic_latency_cycles, Cycles, 1, 1024, "from issue to a usable result of an FMA"),
    number!("tvp.special_latency", tvp.special_latency_cycles, Cycles, 1, 1024, "from issue to a usable result of a special function"),
    number!("tvp.load_latency", tvp.load_latency_cycles, Cycles, 1, 1024, "from issue to a usable TSRAM load"),
    number!("tvp.special_per_cycle_32", tvp.special_per_cycle_32, Count, 1, 4096, "results per cycle of one special slot at 32 bit"),
    number!("tvp.special_per_cycle_16", tvp.special_per_cycle_16, Count, 1, 4096, "results per cycle of one special slot at 16 bit"),
    number!("tvp.launch", tvp.launch_cycles, Cycles, 1, 65_536, "from the queue's head to a kernel's first instruction"),
    number!("tvp.loop_depth", tvp.loop_depth, Count, 1, 16, "hardware loops that may nest"),

    number!("tsram.size", tsram.size_bytes, Bytes, 4 * KIB, 64 * MIB, "SRAM of a tile"),
    number!("tsram.banks", tsram.banks, Count, 1, 256, pow2, "banks, each with one port"),
    number!("tsram.bank", tsram.bank_bytes, Bytes, 8, 1024, pow2, "width of a bank and interleave of the banks"),
    number!("tsram.dma_read", tsram.dma_read_bytes, BytesPerCycle, 1, 16 * KIB, "port that DMA reads through"),
    number!("tsram.dma_write", tsram.dma_write_bytes, BytesPerCycle, 1, 16 * KIB, "port that DMA writes through"),
    number!("tsram.tvp_load", tsram.tvp_load_bytes, BytesPerCycle, 1, 16 * KIB, "port of the vector processor's loads"),
    number!("tsram.tvp_store", tsram.tvp_store_bytes, BytesPerCycle, 1, 16 * KIB, "port of the vector processor's stores"),
    number!("tsram.latency", tsram.latency_cycles, Cycles, 1, 1024, "from a granted request to its data"),

    number!("csram.size", csram.size_bytes, Bytes, 4 * KIB, GIB, "SRAM of a cluster"),
    number!("csram.read", csram.read_bytes, BytesPerCycle, 1, 64 * KIB, "read width, all ports together"),
    number!("csram.write", csram.write_bytes, BytesPerCycle, 1, 64 * KIB, "write width, all ports together"),
    number!("csram.latency", csram.latency_cycles, Cycles, 1, 4096, "from a granted request to its data"),

    number!("dma.channels", dma.channels, Count, 1, 64, "descriptors in work at once in a tile's engine"),
    number!("dma.outstanding", dma.outstanding, Count, 1, 65_536, "requests in flight of a tile's engine, all channels"),
    number!("dma.request", dma.request_bytes, Bytes, 32, 4 * KIB, pow2, "bytes of one request of a tile's engine"),
    number!("dma.setup", dma.setup_cycles, Cycles, 1, 65_536, "from a descriptor to its first request, overlapped by other channels"),
    number!("dma.train", dma.train_bytes, Bytes, 32, MIB, "bytes of a descriptor that the engine issues and tracks together"),

    number!("cdma.channels", cdma.channels, Count, 1, 64, "descriptors in work at once in a cluster's engine"),
    number!("cdma.outstanding", cdma.outstanding, Count, 1, 65_536, "requests in flight of a cluster's engine, all channels"),
    number!("cdma.request", cdma.request_bytes, Bytes, 32, 4 * KIB, pow2, "bytes of one request of a cluster's engine"),
    number!("cdma.setup", cdma.setup_cycles, Cycles, 1, 65_536, "from a descriptor to its first request, overlapped by other channels"),
    number!("cdma.train", cdma.train_bytes, Bytes, 32, MIB, "bytes of a descriptor that the engine issues and tracks together"),

    number!("noc.tile_port", noc.tile_port_bytes, BytesPerCycle, 1, 16 * KIB, "port of a tile, each direction"),
    number!("noc.mesh_hop", noc.mesh_hop_cycles, Cycles, 1, 1024, "one hop between neighbouring tiles"),
    number!("noc.cluster", noc.cluster_cycles, Cycles, 1, 4096, "latency of the crossbar inside a cluster"),
    number!("noc.cluster_port", noc.cluster_port_bytes, BytesPerCycle, 1, 64 * KIB, "port of a cluster on the global crossbar, each direction"),
    number!("noc.global", noc.global_cycles, Cycles, 1, 4096, "latency of the global crossbar"),
    number!("noc.stack_port", noc.stack_port_bytes, BytesPerCycle, 1, 64 * KIB, "port of an HBM stack on the global crossbar, each direction"),

    number!("hbm.stacks", hbm.stacks, Count, 1, 16, "HBM stacks"),
    number!("hbm.channels_per_stack", hbm.channels_per_stack, Count, 1, 32, "channels of a stack"),
    Field {
        key: "hbm.device",
        unit: Unit::Name(DEVICES),
        min: 0,
        max: 0,
        power_of_two: false,
        doc: "device table that sets every hbm.timing key",
        get: |chip| Value::Name(chip.hbm.device.clone()),
        set: |chip, value| {
            if let Value::Name(value) = value {
                chip.hbm.device.clone_from(value);
            }
        },
    },
    Field {
        key: "hbm.model",
        unit: Unit::Name(ChannelModel::NAMES),
        min: 0,
        max: 0,
        power_of_two: false,
        doc: "how channels are modelled: in closed form, or command by command",
        get: |chip| Value::Name(chip.hbm.model.name().to_string()),
        set: |chip, value| {
            if let Value::Name(value) = value
                && let Some(model) = ChannelModel::from_name(value)
            {
                chip.hbm.model = model;
            }
        },
    },
    Field {
        key: "hbm.refresh",
        unit: Unit::Name(Refresh::NAMES),
        min: 0,
        max: 0,
        power_of_two: false,
        doc: "refresh mode",
        get: |chip| Value::Name(chip.hbm.refresh.name().to_string()),
        set: |chip, value| {
            if let Value::Name(value) = value
                && let Some(refresh) = Refresh::from_name(value)
            {
                chip.hbm.refresh = refresh;
            }
        },
    },
    number!("hbm.interleave", hbm.interleave_bytes, Bytes, 32, 64 * KIB, pow2, "consecutive bytes in one channel"),
    Field {
        key: "hbm.mapping",
        unit: Unit::Mapping,
        min: 0,
        max: 0,
        power_of_two: false,
        doc: "places of bursts in the exact model: `blocks` (one per interleave), or as `mem --mapping`",
        get: |chip| Value::Name(chip.hbm.mapping.clone()),
        set: |chip, value| {
            if let Value::Name(value) = value {
                chip.hbm.mapping.clone_from(value);
            }
        },
    },
    number!("hbm.read_queue", hbm.read_queue, Count, 1, 32_767, "bursts that a channel's controller holds for reading"),
    number!("hbm.write_queue", hbm.write_queue, Count, 1, 32_767, "bursts that a channel's controller holds for writing"),
    number!("hbm.write_high", hbm.write_high_permille, Permille, 1, 1000, "share of the write queue at which writes start to drain"),
    number!("hbm.write_low", hbm.write_low_permille, Permille, 0, 1000, "share of the write queue at which draining stops"),
    number!("hbm.path.translate", hbm.path.translate_ns, Nanoseconds, 0, 10_000, "address translation and request assembly at the DMA engine"),
    number!("hbm.path.request_noc", hbm.path.request_noc_ns, Nanoseconds, 0, 10_000, "request across cluster and global NoC"),
    number!("hbm.path.controller_front", hbm.path.controller_front_ns, Nanoseconds, 0, 10_000, "controller before its queues: clock crossing, decode, ordering"),
    number!("hbm.path.phy_out", hbm.path.phy_out_ns, Nanoseconds, 0, 10_000, "command through the PHY"),
    number!("hbm.path.phy_back", hbm.path.phy_back_ns, Nanoseconds, 0, 10_000, "data through the PHY"),
    number!("hbm.path.controller_back", hbm.path.controller_back_ns, Nanoseconds, 0, 10_000, "controller after the data: ECC check, clock crossing"),
    number!("hbm.path.return_noc", hbm.path.return_noc_ns, Nanoseconds, 0, 10_000, "data across global and cluster NoC"),

    number!("hbm.timing.tck", hbm.timing.tck_ps, Picoseconds, 100, 10_000, "command clock period, four data bits per pin"),
    number!("hbm.timing.bl", hbm.timing.bl_ck, Ck, 1, 64, "a burst on the data bus of a pseudo channel"),
    number!("hbm.timing.cl", hbm.timing.cl_ck, Ck, 1, 1000, "read latency"),
    number!("hbm.timing.cwl", hbm.timing.cwl_ck, Ck, 1, 1000, "write latency"),
    number!("hbm.timing.rcdrd", hbm.timing.rcdrd_ck, Ck, 1, 1000, "ACT to RD"),
    number!("hbm.timing.rcdwr", hbm.timing.rcdwr_ck, Ck, 1, 1000, "ACT to WR"),
    number!("hbm.timing.rp", hbm.timing.rp_ck, Ck, 1, 1000, "PRE to ACT"),
    number!("hbm.timing.ras", hbm.timing.ras_ck, Ck, 1, 1000, "ACT to PRE"),
    number!("hbm.timing.rc", hbm.timing.rc_ck, Ck, 1, 1000, "ACT to ACT, same bank"),
    number!("hbm.timing.wr", hbm.timing.wr_ck, Ck, 1, 1000, "write recovery"),
    number!("hbm.timing.rtp", hbm.timing.rtp_ck, Ck, 1, 1000, "RD to PRE"),
    number!("hbm.timing.ccds", hbm.timing.ccds_ck, Ck, 1, 1000, "column command to column command, different bank group"),
    number!("hbm.timing.ccdl", hbm.timing.ccdl_ck, Ck, 1, 1000, "column command to column command, same bank group"),
    number!("hbm.timing.ccdr", hbm.timing.ccdr_ck, Ck, 1, 1000, "RD to RD, different stack ID"),
    number!("hbm.timing.rrds", hbm.timing.rrds_ck, Ck, 1, 1000, "ACT to ACT, different bank group"),
    number!("hbm.timing.rrdl", hbm.timing.rrdl_ck, Ck, 1, 1000, "ACT to ACT, same bank group"),
    number!("hbm.timing.faw", hbm.timing.faw_ck, Ck, 1, 1000, "window of four ACTs in a pseudo channel"),
    number!("hbm.timing.wtrs", hbm.timing.wtrs_ck, Ck, 1, 1000, "end of write data to RD, different bank group"),
    number!("hbm.timing.wtrl", hbm.timing.wtrl_ck, Ck, 1, 1000, "end of write data to RD, same bank group"),
    number!("hbm.timing.rtw", hbm.timing.rtw_ck, Ck, 1, 1000, "RD to WR"),
    number!("hbm.timing.ppd", hbm.timing.ppd_ck, Ck, 1, 1000, "PRE to PRE"),
    number!("hbm.timing.rfc", hbm.timing.rfc_ck, Ck, 1, 100_000, "all-bank refresh"),
    number!("hbm.timing.rfcpb", hbm.timing.rfcpb_ck, Ck, 1, 100_000, "refresh of one bank"),
    number!("hbm.timing.rrefd", hbm.timing.rrefd_ck, Ck, 1, 1000, "per-bank refresh to the next, or to ACT of another bank"),
    number!("hbm.timing.refi", hbm.timing.refi_ck, Ck, 1, 1_000_000, "interval of all-bank refresh"),
    number!("hbm.timing.refipb", hbm.timing.refipb_ck, Ck, 1, 1_000_000, "interval of per-bank refresh"),
    number!("hbm.timing.pseudo_channels", hbm.timing.pseudo_channels, Count, 1, 4, "pseudo channels of a channel"),
    number!("hbm.timing.sids", hbm.timing.sids, Count, 1, 8, "stack IDs (ranks) of a channel"),
    number!("hbm.timing.bank_groups", hbm.timing.bank_groups, Count, 1, 16, pow2, "bank groups of a stack ID"),
    number!("hbm.timing.banks_per_group", hbm.timing.banks_per_group, Count, 1, 16, pow2, "banks of a bank group"),
    number!("hbm.timing.rows", hbm.timing.rows, Count, 1, 131_072, "rows of a bank"),
    number!("hbm.timing.columns", hbm.timing.columns, Count, 1, 256, pow2, "bursts in a row of a pseudo channel"),
    number!("hbm.timing.burst", hbm.timing.burst_bytes, Bytes, 8, 256, pow2, "bytes of a burst of a pseudo channel"),
    number!("hbm.timing.act_bus", hbm.timing.act_bus_half_ck, HalfCk, 1, 64, "row command bus held by ACT"),
    number!("hbm.timing.pre_bus", hbm.timing.pre_bus_half_ck, HalfCk, 1, 64, "row command bus held by PRE and refresh"),
    number!("hbm.timing.rdwr_bus", hbm.timing.rdwr_bus_half_ck, HalfCk, 1, 64, "column command bus held by RD and WR"),

    number!("control.instruction", control.instruction_cycles, Cycles, 1, 1024, "one instruction of a control processor"),
    number!("control.load", control.load_cycles, Cycles, 1, 1024, "a load of a control processor"),
    number!("control.tile_signal", control.tile_signal_cycles, Cycles, 1, 4096, "semaphore signal between units of one tile"),
    number!("control.cluster_signal", control.cluster_signal_cycles, Cycles, 1, 4096, "semaphore signal inside a cluster"),
    number!("control.chip_signal", control.chip_signal_cycles, Cycles, 1, 65_536, "semaphore signal across the chip"),

    number!("queue.depth", queue.depth, Count, 1, 4096, "macro-instructions in an engine's queue"),
    number!("queue.push", queue.push_cycles, Cycles, 1, 1024, "pushing one macro-instruction"),
    number!("semaphores.count", semaphores.count, Count, 1, 4096, "semaphores of a tile, and of a cluster"),
    number!("semaphores.bits", semaphores.bits, Count, 1, 32, "width of a semaphore's counter"),
    number!("semaphores.per_op", semaphores.per_op, Count, 1, 8, "most waits, and most signals, of one macro-instruction"),

    number!("network.ports", network.ports, Count, 1, 256, "Ethernet ports"),
    number!("network.port", network.port_gbps, GigabitsPerSecond, 1, 10_000, "line rate of a port, each direction"),
    number!("network.mtu", network.mtu_bytes, Bytes, 256, 64 * KIB, "largest packet"),
    number!("network.overhead", network.overhead_permille, Permille, 0, 900, "share of the line rate lost to headers and acknowledgements"),
    number!("network.tray_latency", network.tray_latency_ns, Nanoseconds, 1, 1_000_000, "memory to memory, one way, inside a tray"),
    number!("network.switched_latency", network.switched_latency_ns, Nanoseconds, 1, 1_000_000, "memory to memory, one way, per switched path"),

    number!("energy.network", energy.network_fj_per_bit, FemtojoulesPerBit, 0, 10_000_000, "a bit sent over the network"),
    number!("energy.hbm", energy.hbm_fj_per_bit, FemtojoulesPerBit, 0, 10_000_000, "a bit read or written in HBM"),
    number!("energy.ttu_fp4", energy.ttu_fp4_fj_per_flop, FemtojoulesPerFlop, 0, 10_000_000, "tensor FLOP at FP4, SRAM and NoC share inside"),
    number!("energy.ttu_fp8", energy.ttu_fp8_fj_per_flop, FemtojoulesPerFlop, 0, 10_000_000, "tensor FLOP at FP8 and FP6, SRAM and NoC share inside"),
    number!("energy.ttu_bf16", energy.ttu_bf16_fj_per_flop, FemtojoulesPerFlop, 0, 10_000_000, "tensor FLOP at BF16, SRAM and NoC share inside"),
    number!("energy.tvp", energy.tvp_fj_per_flop, FemtojoulesPerFlop, 0, 10_000_000, "vector FLOP at FP32"),
    number!("energy.static", energy.static_mw, Milliwatts, 0, 100_000_000, "power of an idle chip"),
];
