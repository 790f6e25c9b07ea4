//! What instructions cost on a chip, for the pages of `isa`.
//!
//! Models: a text for each cost class of the instruction set: the rule in words, the name of its formula, a figure on the chip
//! at hand and the keys that set it. Leaves out: queueing and conflicts, which only a run shows. Invariant: every class that a
//! row names has a text, and every dotted name in it is a key of the chip.

use crate::chip::fields::Field;
use crate::chip::{Chip, cost, show};
use crate::num::Dtype;
use std::fmt::Write;

/// A cost class.
pub struct Class {
    /// Where its cycles are computed.
    pub formula: &'static str,
    /// The rule in words; dotted names are keys of the chip.
    pub rule: &'static str,
    /// A figure on a chip.
    figure: fn(&Chip) -> String,
}

/// The class of that name.
pub fn class(name: &str) -> Option<Class> {
    let of = |formula, rule, figure| Class {
        formula,
        rule,
        figure,
    };
    Some(match name {
        "alu" | "div" | "branch" | "store" | "stage" => of(
            "timing::processor",
            "control.instruction cycles of its processor.",
            |c| cycles(c.control.instruction_cycles),
        ),
        "load" => of(
            "timing::processor",
            "control.load cycles of its processor.",
            |c| cycles(c.control.load_cycles),
        ),
        "semaphore" => of(
            "timing::processor",
            "control.instruction cycles of its processor, and for `sem.wait` the wait. A post arrives after \
             control.tile_signal, control.cluster_signal or control.chip_signal cycles, by distance.",
            |c| {
                let k = &c.control;
                format!(
                    "{}; a post arrives {} cycles later in the tile's own cluster",
                    cycles(k.instruction_cycles),
                    k.cluster_signal_cycles
                )
            },
        ),
        "dma" => of(
            "timing::dma",
            "queue.push cycles of the processor, longer while the queue holds queue.depth operations. The transfer: \
             dma.setup cycles, then requests of up to dma.request bytes, at most dma.outstanding in flight, at the rate of \
             the slowest port on the way (tsram.dma_read, tsram.dma_write, noc.tile_port, noc.cluster_port, csram.read, \
             csram.write, noc.stack_port, HBM), shared with other transfers; a cluster processor's own has cdma.* instead.",
            |c| {
                let port = c.tsram.dma_write_bytes.min(c.noc.tile_port_bytes);
                let port = port.min(c.csram.read_bytes);
                format!(
                    "{} of the processor; 64 KiB from CSRAM to TSRAM take at least {} + {} cycles, {port} B a cycle",
                    cycles(c.queue.push_cycles),
                    c.dma.setup_cycles,
                    65_536u32.div_ceil(port)
                )
            },
        ),
        "net" => of(
            "timing::dma",
            "queue.push cycles of the processor. A transfer as of `dma`, over network.ports x network.port between chips.",
            |c| {
                let rate = cost::network_payload_bytes_per_s(c) / 1_000_000_000;
                format!(
                    "{} of the processor; {rate} GB/s of payload",
                    cycles(c.queue.push_cycles)
                )
            },
        ),
        "mm" => of(
            "chip::cost::mm_steps",
            "queue.push cycles of the processor. The array: ceil(m / ttu.block_rows) x ceil(n / ttu.block_cols) x \
             ceil(k / K) cycles, K being ttu.k_fp4, ttu.k_fp8 or ttu.k_bf16 for the wider operand; more when operand rows \
             meet in the TSRAM's banks. Results are ready ttu.latency cycles later.",
            |c| {
                let steps = |t| cost::mm_steps(c, t, t, 256, 256, 1024);
                format!(
                    "256 x 256 x 1024 takes {} cycles in BF16, {} in FP8, and {} for the last results",
                    steps(Dtype::Bf16),
                    steps(Dtype::E4m3),
                    c.ttu.latency_cycles
                )
            },
        ),
        "mm.load" => of(
            "chip::cost::preload_cycles",
            "queue.push cycles of the processor. The preload port moves ttu.preload_port bytes a cycle beside the array.",
            |c| {
                format!(
                    "256 x 256 of FP32 take {} cycles",
                    cost::preload_cycles(c, Dtype::F32, 256, 256)
                )
            },
        ),
        "mm.store" => of(
            "chip::cost::store_cycles",
            "queue.push cycles of the processor. The result port moves ttu.result_port bytes of accumulators a cycle beside \
             the array, once the products before it are ready (ttu.latency).",
            |c| {
                let store = |t| cost::store_cycles(c, t, 256, 256);
                format!(
                    "256 x 256 take {} cycles as FP32, {} as BF16",
                    store(Dtype::F32),
                    store(Dtype::Bf16)
                )
            },
        ),
        "vrun" => of(
            "timing::vector",
            "queue.push cycles of the processor. The kernel: tvp.launch cycles, then its instructions, issued in order.",
            |c| {
                format!(
                    "{} of the processor, {} to the kernel's first instruction",
                    cycles(c.queue.push_cycles),
                    c.tvp.launch_cycles
                )
            },
        ),
        "vload" => of(
            "timing::vector",
            "A load slot (tvp.load_slots a cycle) for ceil(bytes of a vector / tsram.tvp_load) cycles, longer if strided \
             elements meet in banks; the result after tvp.load_latency cycles. A vector has tvp.lanes_32 or tvp.lanes_16 \
             elements.",
            |c| {
                let t = &c.tvp;
                format!(
                    "{} of a slot for FP32, result after {}",
                    cycles((4 * t.lanes_32).div_ceil(c.tsram.tvp_load_bytes)),
                    t.load_latency_cycles
                )
            },
        ),
        "vstore" => of(
            "timing::vector",
            "A store slot (tvp.store_slots a cycle) for ceil(bytes of a vector / tsram.tvp_store) cycles, longer if strided \
             elements meet in banks. A vector has tvp.lanes_32 or tvp.lanes_16 elements.",
            |c| {
                let slot = (4 * c.tvp.lanes_32).div_ceil(c.tsram.tvp_store_bytes);
                format!("{} of a slot for FP32", cycles(slot))
            },
        ),
        "varith" => of(
            "timing::vector",
            "One arithmetic slot (tvp.arithmetic_slots a cycle); the result after tvp.arithmetic_latency cycles.",
            |c| {
                format!(
                    "{} a cycle, result after {}",
                    c.tvp.arithmetic_slots,
                    cycles(c.tvp.arithmetic_latency_cycles)
                )
            },
        ),
        "vspecial" => of(
            "timing::vector",
            "The special slot (tvp.special_slots a cycle) for tvp.lanes_32 / tvp.special_per_cycle_32 cycles (tvp.lanes_16 / \
             tvp.special_per_cycle_16 for types of up to 16 bits); the result after tvp.special_latency cycles.",
            |c| {
                let t = &c.tvp;
                format!(
                    "{} of the slot for FP32, {} for 16 bits, result after {}",
                    cycles(t.lanes_32.div_ceil(t.special_per_cycle_32)),
                    t.lanes_16.div_ceil(t.special_per_cycle_16),
                    t.special_latency_cycles
                )
            },
        ),
        "vreduce" => of(
            "timing::vector",
            "One arithmetic slot (tvp.arithmetic_slots a cycle); the result after 2 x log2(lanes) cycles, of tvp.lanes_32 or \
             tvp.lanes_16.",
            |c| {
                format!(
                    "result after {} for FP32, {} for 16 bits",
                    cycles(2 * c.tvp.lanes_32.max(2).ilog2()),
                    2 * c.tvp.lanes_16.max(2).ilog2()
                )
            },
        ),
        "scalar" => of(
            "timing::vector",
            "One scalar slot (tvp.scalar_slots a cycle); the result in the next cycle.",
            |c| format!("{} a cycle, result after 1 cycle", c.tvp.scalar_slots),
        ),
        "loop" => of(
            "timing::vector",
            "One scalar slot (tvp.scalar_slots a cycle); turns of the loop cost nothing of their own.",
            |c| format!("{} a cycle", c.tvp.scalar_slots),
        ),
        _ => return None,
    })
}

fn cycles(n: u32) -> String {
    format!("{n} cycle{}", if n == 1 { "" } else { "s" })
}

impl Class {
    /// The keys of the chip that the rule names, in its order.
    pub fn keys(&self) -> Vec<&'static Field> {
        let mut keys: Vec<&Field> = Vec::new();
        for key in dotted(self.rule).filter_map(Field::find) {
            if !keys.iter().any(|k| k.key == key.key) {
                keys.push(key);
            }
        }
        keys
    }
}

/// Words with a dot inside.
fn dotted(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_')
        .map(|w| w.trim_matches('.'))
        .filter(|w| w.contains('.'))
}

/// The text under "Performance" on the page of an instruction of this cost class.
pub fn text(cost: &str, chip: &Chip) -> String {
    let Some(class) = class(cost) else {
        return format!("Cost class `{cost}`.");
    };
    let mut out = format!(
        "Cost class `{cost}` (formula: `{}`). {}\n\nOn `{}`: {}.\n\n| key | on `{}` | is |\n|---|---|---|\n",
        class.formula,
        class.rule,
        chip.name,
        (class.figure)(chip),
        chip.name
    );
    for field in class.keys() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| `{}` | {} | {} |",
            field.key,
            show::value_text(chip, field),
            field.doc
        );
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::INFO;

    #[test]
    fn every_class_names_keys_of_the_chip_and_a_figure() {
        for name in Chip::preset("maia-200").iter().flat_map(|_| INFO.iter()) {
            let class = class(name.cost).unwrap_or_else(|| panic!("{}: {}", name.name, name.cost));
            let rule = class.rule.replace("cdma.*", "");
            for word in dotted(&rule).filter(|w| *w != "sem.wait") {
                assert!(Field::find(word).is_some(), "{}: {word}", name.cost);
            }
            assert!(!class.keys().is_empty(), "{}", name.cost);
        }
    }

    #[test]
    fn figures_are_those_of_the_chip() {
        let chip = Chip::preset("maia-200").unwrap();
        for (cost, part) in [
            // 8 x 8 blocks; 1024 / 8 and 1024 / 32 steps.
            ("mm", "takes 8192 cycles in BF16, 2048 in FP8"),
            // 64 blocks of 4 KiB over 1 KiB a cycle.
            ("mm.store", "take 256 cycles as FP32, 128 as BF16"),
            ("vreduce", "after 14 cycles for FP32, 16 for 16 bits"),
            ("vload", "| `tsram.tvp_load` | "),
        ] {
            let text = text(cost, &chip);
            assert!(text.contains(part), "{cost}: {text}");
        }
    }
}
