# mm.store: writes accumulator blocks to TSRAM as FP32, BF16 or FP16, to nearest even, saturating.
.include "lib.inc"
.tensor IN, tsram, f32, [2, 4], payload, values(1.5, -2.5, 257, 1e+30, 1.00390625, 1.01171875, 65519, -100000)
.tensor F, tsram, f32, [2, 5], payload, values(7)           # rows 5 apart: the fifth column stays
.expect F, values(1.5, -2.5, 257, 1.0000000150474662e+30, 7, 1.00390625, 1.01171875, 65519, -100000, 7)
# 257, 1.00390625 and 1.01171875 are half way between two BF16 numbers: the even one wins.
.tensor B, tsram, bf16, [2, 4], payload
.expect B, values(1.5, -2.5, 256, 1.0002555517425873e+30, 1, 1.015625, 65536, -99840)
.tensor H, tsram, f16, [2, 4], payload
.expect H, values(1.5, -2.5, 257, 65504, 1.00390625, 1.01171875, 65504, -65504)

.tile
    only_tile_0
    li r1, 0
    li r2, IN
    li r3, 2
    li r4, 4
    li r5, 16
    mm.load r1, r2, r3, r4, r5
    li r2, F
    li r5, 20
    mm.store.f32 r1, r2, r3, r4, r5
    li r2, B
    li r5, 8
    mm.store.bf16 r1, r2, r3, r4, r5
    li r2, H
    mm.store.f16 r1, r2, r3, r4, r5
    halt
