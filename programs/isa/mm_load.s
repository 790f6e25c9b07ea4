# mm.load: fills accumulator blocks from an FP32 matrix in TSRAM, as the start of a sum.
.include "lib.inc"
.tensor IN, tsram, f32, [33, 34], payload, iota
.tensor OUT, tsram, f32, [33, 34], payload                  # 2 x 2 blocks
.expect OUT, iota
.tensor CORNER, tsram, f32, [2, 3], payload                 # columns 31 to 33 of rows 31 and 32: of all four blocks
.expect CORNER, values(1085, 1086, 1087, 1119, 1120, 1121)
.tensor ONE, tsram, bf16, [1], payload, values(1)
.tensor SUM, tsram, f32, [1], payload
.expect SUM, values(1086)

.reg acc, r1
.reg at,  r2
.reg m,   r3
.reg n,   r4
.reg ld,  r5

.tile
    only_tile_0
    li acc, 5                   # first accumulator block; the tensor unit's queue is in order
    li at, IN
    li m, 33
    li n, 34
    li ld, 34 * 4               # bytes between rows
    mm.load acc, at, m, n, ld
    li at, OUT
    mm.store.f32 acc, at, m, n, ld

    # A part of a wider matrix.
    li at, IN + 4 * (34 * 31 + 31)
    li m, 2
    li n, 3
    mm.load acc, at, m, n, ld
    li at, CORNER
    li ld, 12
    mm.store.f32 acc, at, m, n, ld

    # `mm.acc` goes on from what was loaded: 1085 + 1 * 1.
    li at, ONE
    li m, 1
    li ld, 2
    mm.acc.bf16.bf16.mk.kn acc, at, at, m, m, m, ld, ld
    li at, SUM
    li ld, 4
    mm.store.f32 acc, at, m, m, ld
    halt
