//! Tests of what loads: presets against the published table, `--set`, the two views.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::fields::{FIELDS, Field};
use super::*;

fn preset(name: &str) -> Chip {
    Chip::preset(name).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_preset_loads_and_every_field_carries_a_mark() {
    for name in PRESETS {
        let chip = preset(name);
        assert_eq!(&chip.name, name);
        assert!(!chip.summary.is_empty());
        for field in FIELDS {
            let mark = chip.marks.get(field.key);
            assert!(
                matches!(mark, Some(Mark::Source(text) | Mark::Estimate(text)) if text.len() > 10),
                "{name}: {} has {mark:?}",
                field.key
            );
        }
        assert_eq!(chip.marks.len(), FIELDS.len());
        chip.validate().unwrap();
    }
}

#[test]
fn presets_match_the_published_table() {
    // FP4, FP8, BF16, vector 16 bit, vector FP32 in TFLOP/s; SRAM in MB.
    for (name, tiles, clock, rates, sram) in [
        (
            "maia-200",
            36,
            2_150_000_000,
            ["10145", "5072", "1268", "118.9", "59.4"],
            "260.0",
        ),
        (
            "maia-200-2ghz",
            36,
            2_000_000_000,
            ["9437", "4719", "1180", "110.6", "55.3"],
            "260.0",
        ),
        (
            "maia-200-full",
            40,
            2_000_000_000,
            ["10486", "5243", "1311", "122.9", "61.4"],
            "272.6",
        ),
    ] {
        let chip = preset(name);
        assert_eq!((chip.tiles(), chip.clock_hz), (tiles, clock), "{name}");
        let figures = show::derived(&chip);
        let shown = |key: &str| {
            let figure = figures.iter().find(|figure| figure.key == key).unwrap();
            format!("{:.*}", figure.digits, figure.value)
        };
        let keys = [
            "peak_fp4_tflops",
            "peak_fp8_tflops",
            "peak_bf16_tflops",
            "vector_16_tflops",
            "vector_32_tflops",
        ];
        assert_eq!(keys.map(shown), rates, "{name}");
        assert_eq!(shown("peak_fp6_tflops"), rates[1]);
        assert_eq!(shown("sram_mb"), sram, "{name}");
        assert_eq!(shown("hbm_peak_tbps"), "7.0137");
        assert_eq!(shown("hbm_gib"), "216.0");
        assert_eq!(shown("hbm_path_ns"), "330");
        assert_eq!(shown("network_tbps"), "1.400");
    }
    let mini = preset("mini");
    assert_eq!(
        (mini.clusters, mini.tiles_per_cluster, mini.hbm_channels()),
        (1, 2, 2)
    );
    assert_eq!(
        (mini.tsram.size_bytes, mini.csram.size_bytes),
        (256 << 10, 1 << 20)
    );
    assert_eq!(mini.clock_hz, 1_000_000_000);
}

#[test]
fn contract_keys_exist() {
    for key in [
        "clock",
        "clusters",
        "tiles_per_cluster",
        "tsram.size",
        "csram.size",
        "hbm.stacks",
        "hbm.device",
        "hbm.refresh",
        "noc.tile_port",
        "dma.outstanding",
        "queue.depth",
        "semaphores.per_op",
    ] {
        assert!(Field::find(key).is_some(), "{key}");
    }
}

#[test]
fn devices_match_their_tables() {
    // Ramulator 2.1 HBM3_6400 and its scaling to 9,132 Mb/s, in the order of the struct.
    let expect = |name: &str, row: [u32; 36]| {
        let device = HbmDevice::preset(name).unwrap();
        let json = serde_json::to_value(&device).unwrap();
        assert_eq!(json.as_object().unwrap().len(), row.len());
        let d = &device;
        let have = [
            d.tck_ps,
            d.bl_ck,
            d.cl_ck,
            d.cwl_ck,
            d.rcdrd_ck,
            d.rcdwr_ck,
            d.rp_ck,
            d.ras_ck,
            d.rc_ck,
            d.wr_ck,
            d.rtp_ck,
            d.ccds_ck,
            d.ccdl_ck,
            d.ccdr_ck,
            d.rrds_ck,
            d.rrdl_ck,
            d.faw_ck,
            d.wtrs_ck,
            d.wtrl_ck,
            d.rtw_ck,
            d.ppd_ck,
            d.rfc_ck,
            d.rfcpb_ck,
            d.rrefd_ck,
            d.refi_ck,
            d.refipb_ck,
            d.pseudo_channels,
            d.sids,
            d.bank_groups,
            d.banks_per_group,
            d.rows,
            d.columns,
            d.burst_bytes,
            d.act_bus_half_ck,
            d.pre_bus_half_ck,
            d.rdwr_bus_half_ck,
        ];
        assert_eq!(have, row, "{name}");
        device
    };
    let old = expect(
        "hbm3-6400",
        [
            625, 2, 20, 10, 31, 15, 26, 45, 72, 33, 9, 2, 4, 3, 4, 5, 24, 7, 10, 20, 2, 560, 320,
            8, 6240, 195, 2, 2, 4, 4, 16384, 32, 32, 3, 1, 2,
        ],
    );
    assert_eq!(
        (old.rate_mbps(), old.pseudo_channel_bytes()),
        (6400, 512 << 20)
    );
    let new = expect(
        "hbm3e-9132",
        [
            438, 2, 29, 15, 45, 22, 38, 65, 103, 48, 13, 2, 4, 3, 6, 8, 35, 10, 15, 29, 2, 800,
            457, 19, 8904, 186, 2, 3, 4, 4, 24576, 32, 32, 3, 1, 2,
        ],
    );
    assert_eq!(
        (new.rate_mbps(), new.pseudo_channel_bytes()),
        (9132, 1152 << 20)
    );
    assert_eq!((new.banks(), new.row_bytes()), (48, 1024));
    let error = HbmDevice::preset("hbm4").unwrap_err().to_string();
    assert_eq!(
        error,
        "`hbm.device`: `hbm4` is not one of hbm3-6400, hbm3e-9132"
    );
}

#[test]
fn a_key_is_its_field_without_the_unit() {
    fn leaves(json: &Json, prefix: &str, found: &mut BTreeMap<String, Json>) {
        for (name, value) in json.as_object().unwrap() {
            let path = format!("{prefix}{name}");
            if value.is_object() {
                leaves(value, &format!("{path}."), found);
            } else {
                found.insert(path, value.clone());
            }
        }
    }
    // Distinct values show that each getter and setter reaches its own field.
    let mut chip = preset("maia-200");
    for (index, field) in FIELDS.iter().enumerate() {
        if let fields::Value::Int(_) = (field.get)(&chip) {
            (field.set)(&mut chip, &fields::Value::Int(1000 + index as u64));
        }
    }
    let mut json = serde_json::to_value(&chip).unwrap();
    for name in ["name", "summary", "marks"] {
        json.as_object_mut().unwrap().remove(name);
    }
    let mut found = BTreeMap::new();
    leaves(&json, "", &mut found);
    assert_eq!(
        found.len(),
        FIELDS.len(),
        "a field without a key, or a key without a field"
    );
    let suffixes = [
        "_half_ck",
        "_ck",
        "_ps",
        "_ns",
        "_hz",
        "_cycles",
        "_bytes",
        "_gbps",
        "_permille",
        "_fj_per_bit",
        "_fj_per_flop",
        "_mw",
        "_w",
    ];
    for (path, value) in found {
        let key = suffixes
            .iter()
            .find_map(|suffix| path.strip_suffix(suffix))
            .unwrap_or(&path);
        let field = Field::find(key).unwrap_or_else(|| panic!("no key for {path}"));
        let have = match (field.get)(&chip) {
            fields::Value::Int(value) => Json::from(value),
            fields::Value::Flag(flag) => Json::from(flag),
            fields::Value::Name(name) => Json::from(name),
        };
        assert_eq!(have, value, "{key}");
    }
}

#[test]
fn rows_of_the_table_are_sound() {
    for (index, field) in FIELDS.iter().enumerate() {
        assert!(field.min <= field.max, "{}", field.key);
        assert!(
            !field.doc.is_empty() && field.doc.len() < 100,
            "{}",
            field.key
        );
        assert!(
            FIELDS[..index].iter().all(|other| other.key != field.key),
            "{}",
            field.key
        );
        if field.power_of_two {
            assert!(
                field.min.is_power_of_two() && field.max.is_power_of_two(),
                "{}",
                field.key
            );
        }
    }
    // Only interleave, row, bank, burst and request sizes must be powers of two.
    let powers: Vec<&str> = FIELDS
        .iter()
        .filter(|field| field.power_of_two)
        .map(|field| field.key)
        .collect();
    assert_eq!(
        powers,
        [
            "tsram.banks",
            "tsram.bank",
            "dma.request",
            "cdma.request",
            "hbm.interleave",
            "hbm.timing.bank_groups",
            "hbm.timing.banks_per_group",
            "hbm.timing.columns",
            "hbm.timing.burst",
        ]
    );
}

#[test]
fn shown_values_read_back() {
    for name in PRESETS {
        let chip = preset(name);
        let mut copy = chip.clone();
        for field in FIELDS {
            copy.set(&format!("{}={}", field.key, show::value_text(&chip, field)))
                .unwrap();
            assert_eq!((field.get)(&copy), (field.get)(&chip), "{}", field.key);
        }
        assert_eq!(copy.overrides().count(), FIELDS.len());
    }
}

#[test]
fn set_takes_units() {
    let check = |assignment: &str, key: &str, expected: u64| {
        let mut chip = preset("maia-200");
        chip.set_all(&[assignment])
            .unwrap_or_else(|error| panic!("{error}"));
        let value = (Field::find(key).unwrap().get)(&chip);
        assert_eq!(value, fields::Value::Int(expected), "{assignment}");
        assert_eq!(chip.marks[key], Mark::CommandLine);
        assert_eq!(
            chip.overrides().map(|field| field.key).collect::<Vec<_>>(),
            [key]
        );
    };
    check("clock=2.15 GHz", "clock", 2_150_000_000);
    check("clock = 1500MHz", "clock", 1_500_000_000);
    check("clock=2000000000", "clock", 2_000_000_000);
    check("tsram.size=3 MiB", "tsram.size", 3 << 20);
    check("tsram.size=1.5 MiB", "tsram.size", 3 << 19);
    check("csram.size=64 kB", "csram.size", 64_000);
    check("noc.tile_port=128", "noc.tile_port", 128);
    check("noc.tile_port=128 B/cycle", "noc.tile_port", 128);
    // 550.4 GB/s at 2.15 GHz is 256 B per cycle; less than a whole byte more is dropped.
    check("noc.tile_port=550.4 GB/s", "noc.tile_port", 256);
    check("noc.tile_port=551 GB/s", "noc.tile_port", 256);
    check("noc.cluster_port=7 TB/s", "noc.cluster_port", 3255);
    check("hbm.path.request_noc=0.33 us", "hbm.path.request_noc", 330);
    check("hbm.timing.act_bus=1.5 CK", "hbm.timing.act_bus", 3);
    check("hbm.timing.tck=0.5 ns", "hbm.timing.tck", 500);
    check("network.overhead=6.5 %", "network.overhead", 65);
    check("energy.hbm=3.9 pJ/bit", "energy.hbm", 3900);
    check("network.port=0.8 Tb/s", "network.port", 800);
    check("power=1 kW", "power", 1000);
    check("clusters=3", "clusters", 3);
    check("semaphores.per_op=2", "semaphores.per_op", 2);
}

#[test]
fn set_of_a_device_brings_its_table() {
    let mut chip = preset("maia-200");
    chip.set_all(&[
        "hbm.device=hbm3-6400",
        "hbm.refresh=ab",
        "hbm.timing.faw=16 CK",
    ])
    .unwrap();
    assert_eq!(chip.hbm.device, "hbm3-6400");
    assert_eq!(chip.hbm.refresh, Refresh::Ab);
    assert_eq!((chip.hbm.timing.tck_ps, chip.hbm.timing.faw_ck), (625, 16));
    assert_eq!(
        chip.marks["hbm.timing.tck"],
        Mark::Source("Ramulator 2.1 HBM3_6400".to_string())
    );
    assert_eq!(chip.overrides().count(), 3);
    // In a file the device comes first wherever it is written.
    let chip = super::malformed_tests::on_mini(
        "hbm.timing.cl = { value = 21, estimate = \"e\" }\nhbm.device = { value = \"hbm3-6400\", estimate = \"e\" }",
    );
    let timing = chip.unwrap().hbm.timing;
    assert_eq!((timing.cl_ck, timing.cwl_ck), (21, 10));
}

#[test]
fn refresh_names_and_modes_agree() {
    for name in Refresh::NAMES {
        let mode = Refresh::from_name(name).unwrap();
        assert_eq!(mode.name(), *name);
        assert_eq!(serde_json::to_value(mode).unwrap(), Json::from(*name));
    }
    assert_eq!(Refresh::from_name("all"), None);
}

#[test]
fn channel_models_and_their_names_agree() {
    for name in ChannelModel::NAMES {
        let model = ChannelModel::from_name(name).unwrap();
        assert_eq!(model.name(), *name);
        assert_eq!(serde_json::to_value(model).unwrap(), Json::from(*name));
    }
    assert_eq!(ChannelModel::from_name("fast"), None);
    assert_eq!(preset("maia-200").hbm.model, ChannelModel::FirstOrder);
}

#[test]
fn both_views_hold_every_key_and_mark() {
    let mut chip = preset("maia-200");
    chip.set("queue.depth=8").unwrap();
    let text = show::text(&chip);
    let json = show::json(&chip);
    for field in FIELDS {
        assert!(text.contains(&format!("\n{} ", field.key)), "{}", field.key);
        let entry = &json["keys"][field.key];
        assert!(!entry["value"].is_null(), "{}", field.key);
        let marks = ["source", "estimate", "set"]
            .iter()
            .filter(|mark| entry[**mark].is_string());
        assert_eq!(marks.count(), 1, "{}", field.key);
    }
    let depth = text
        .lines()
        .find(|line| line.starts_with("queue.depth"))
        .unwrap();
    assert!(depth.ends_with(" 8  set on the command line"), "{depth}");
    assert_eq!(
        json["keys"]["queue.depth"]["set"],
        "set on the command line"
    );
    assert_eq!(json["keys"]["clock"]["unit"], "Hz");
    assert_eq!(json["derived"]["peak_fp4_tflops"], 10_144.972_8);
    let peak = text
        .lines()
        .find(|line| line.starts_with("HBM peak"))
        .unwrap();
    assert!(peak.ends_with(" 7.0137 TB/s"), "{peak}");
    assert!(show::estimates(&chip).all(|(field, _)| field.key != "queue.depth"));
    assert!(show::estimates(&chip).any(|(field, _)| field.key == "queue.push"));
}
