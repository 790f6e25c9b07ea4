# dma.t: a matrix is transposed on its way, and converted. Strides of both sides in bytes.
.include "lib.inc"
.tensor IN, hbm, f32, [3, 4], payload, values(0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 1000)
.tensor OUT, tsram, f32, [4, 3], payload
.expect OUT, values(0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 1000)
.tensor PART, tsram, e4m3, [2, 4], payload, values(-1)
.expect PART, values(12, 22, -1, -1, 13, 448, -1, -1)   # columns 2 and 3 of rows 1 and 2, rows padded; 1000 saturates

.tile
    only_tile_0
    li r1, OUT
    li r2, IN
    li r3, 3                    # rows at the source
    li r4, 4                    # columns at the source
    li r5, 12                   # bytes between rows at the destination
    li r6, 16                   # and at the source
    dma.t.f32.f32 0, r1, r2, r3, r4, r5, r6

    li r1, PART
    li r2, IN + 16 + 8
    li r3, 2
    li r4, 2
    li r5, 4
    dma.t.f32.e4m3 0, r1, r2, r3, r4, r5, r6
    halt
