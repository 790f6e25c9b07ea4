# vquant: quantises the register's 128 values in blocks: one code a byte, then one scale a block. All else is kept.
.include "lib.inc"
# Block 0: 24 -8 4 3 1, zeros. Block 1: 31, then ones, which fill blocks 2 and 3 too.
.tensor A, tsram, f32, [128], payload, values(24, -8, 4, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 1)
.tensor CODES, tsram, u8, [40], payload
# floor, scale 2^2 (129): 6 -2 1, 0.75 and 0.25 are ties and go to 1 and 0. 31 / 4 saturates, 1 / 4 goes to 0.
.expect CODES, values(7, 12, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0)
.tensor SCALES, tsram, u8, [8], payload
# 1 alone: 2^-2 (125). Four blocks, and bytes that are kept.
.expect SCALES, values(129, 129, 125, 125, 0x51)
.tensor REST, tsram, u8, [256], payload
# lanes 0 to 127 are written, here with 1 / 2^-2 = 4, code 6; the others are kept
.tensor NV, tsram, u8, [8], payload
# nvfp4, g = 0.5, 16 lanes a block: 24 / 3 = 8 (0x50); zeros; 31 / 3 goes to 10 (0x52); 1 / 3 goes to 0.34375 (0x2b)
.expect NV, values(0x50, 0, 0x52, 0x2b)
.tensor BOTH, tsram, u8, [8], payload
# codes and scales into one register: the scales come last. E4M3, rceil: 24 <= 448 * 2^-4 (123), 31 <= 448 * 2^-3 (124), 1 <= 448 * 2^-8 (119).
# Lane 4: 1 * 2^4 = 16 (0x58); lanes 5 to 7: 0.
.expect BOTH, values(123, 124, 119, 119, 0x58, 0)
.tensor ONE, tsram, f32, [128], payload, values(1)
.expect REST, values(6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 0x51)

    run_test

.kernel test
    sli s3, 40
    vwhile.bf16 p3, s3
    sli s3, 8
    vwhile.bf16 p2, s3
    sli s1, A
    vld.f32 v1, 0(s1)
    sli s2, 0x5151
    vbc.bf16 v3, s2
    vquant.floor.e2m1 v2, v3, v1, s0
    sli s1, CODES
    vst.u8 v2, 0(s1) ?p3
    sli s1, SCALES
    vst.u8 v3, 0(s1) ?p2

    sli s4, float(0.5)
    vquant.nvfp4.e2m1 v4, v5, v1, s4
    sli s1, NV
    vst.u8 v5, 0(s1) ?p2
    vquant.rceil.e4m3 v6, v6, v1, s0
    sli s1, BOTH
    vst.u8 v6, 0(s1) ?p2

    sli s1, ONE
    vld.f32 v1, 0(s1)
    vbc.bf16 v2, s2
    vquant.floor.e2m1 v2, v3, v1, s0
    sli s1, REST
    vst.u8 v2, 0(s1)
    vret
