# gather: the outermost dimension's source offsets come from a table of 32-bit integers in the own SRAM.
.include "lib.inc"
.tensor IN, hbm, i32, [5, 3], payload, iota
.tensor TABLE, tsram, i32, [4], control, values(4, 0, 4, 2)
.tensor BACKWARD, tsram, i32, [2], control, values(-1, -2)
.tensor OUT, tsram, i32, [4, 3], payload
.expect OUT, values(12, 13, 14, 0, 1, 2, 12, 13, 14, 6, 7, 8)   # rows 4, 0, 4, 2
.tensor TWO, tsram, i32, [2, 2], payload
.expect TWO, values(9, 10, 6, 7)

.tile
    only_tile_0
    li r1, OUT
    li r2, IN
    li r3, 3                    # elements of a row
    li r4, 4                    # rows to fetch
    li r5, 12                   # bytes of a row
    li r6, TABLE
    dim r4, r5, r0              # the source stride of this dimension is not used
    gather r6, r5               # offset = index * 12
    dma.i32.i32 0, r1, r2, r3

    # Indices may be negative, counted from the source address; the inner dimension has a stride as ever.
    li r1, TWO
    li r2, IN + 12 * 4
    li r3, 1
    li r4, 2
    li r6, BACKWARD
    li r7, 8
    dim r4, r7, r0
    li r7, 4
    dim r4, r7, r7
    gather r6, r5
    dma.i32.i32 0, r1, r2, r3
    halt
