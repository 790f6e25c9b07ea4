# dim: repeats a transfer with strides of its own at both ends; the first one staged is the outermost.
.include "lib.inc"
.tensor IN, hbm, i32, [4, 6], payload, iota             # 0 .. 23
.tensor SUB, tsram, i32, [3, 4], payload, values(-1)    # rows of 2 elements, padded to 4
.expect SUB, values(8, 9, -1, -1, 14, 15, -1, -1, 20, 21, -1, -1)
.tensor CUBE, tsram, i32, [12], payload
.expect CUBE, values(0, 3, 6, 9, 12, 15, 1, 4, 7, 10, 13, 16)
.tensor DOWN, tsram, i32, [4], payload
.expect DOWN, values(3, 2, 1, 0)

.tile
    only_tile_0
    # Rows 1 to 3, columns 2 and 3, of the 4 x 6 matrix.
    li r1, SUB
    li r2, IN + 4 * (6 * 1 + 2)
    li r3, 2                    # elements of a row
    li r4, 3                    # rows
    li r5, 16                   # from row to row at the destination
    li r6, 24                   # and at the source
    dim r4, r5, r6
    dma.i32.i32 0, r1, r2, r3

    # Two dimensions: 2 times (outer) 6 times (inner) one element. Inner: 12 B apart at the source; outer: 4 B.
    li r1, CUBE
    li r2, IN
    li r3, 1
    li r4, 2
    li r5, 24
    li r6, 4
    dim r4, r5, r6
    li r4, 6
    li r5, 4
    li r6, 12
    dim r4, r5, r6
    dma.i32.i32 0, r1, r2, r3

    # Strides may be negative: 4 elements in reverse.
    li r1, DOWN + 12
    li r2, IN
    li r4, 4
    li r5, -4
    li r6, 4
    dim r4, r5, r6
    dma.i32.i32 0, r1, r2, r3
    halt
