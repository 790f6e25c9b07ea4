# mcast: one transfer writes the same offset in several tiles (or clusters). Here: tiles 0 and 1.
.include "lib.inc"
.tensor IN, hbm, i32, [4], payload, values(5, 6, 7, 8)
.tensor COPY, tsram, i32, [4], payload, values(-1)
.tensor SHARED, csram, i32, [4], payload, values(-1)
.tensor OUT, hbm, i32, [3, 4], payload
.expect COPY, values(5, 6, 7, 8)                        # of tile 0
.expect OUT, values(5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8) # of tile 0, of tile 1, of cluster 0

.equ TILE_0, 2 << 40
.equ OWN, 4 << 40

.tile
    only_tile_0
    li r1, COPY
    li r2, IN
    li r3, 4
    li r4, 0b11                 # tiles 0 and 1
    mcast r4
    signal 0, 2                 # both copies are complete
    dma.i32.i32 0, r1, r2, r3
    # The own copy, and the other tile's by its address in space 2.
    li r1, OUT
    li r2, COPY
    wait 0, 1
    dma.i32.i32 0, r1, r2, r3
    li r1, OUT + 16
    li r2, COPY - OWN + TILE_0 + (1 << 32)
    wait 0, 1
    dma.i32.i32 0, r1, r2, r3
    # A destination in CSRAM: bit c is cluster c.
    li r1, SHARED
    li r2, IN
    li r4, 0b1
    mcast r4
    signal 1, 1
    dma.i32.i32 0, r1, r2, r3
    li r1, OUT + 32
    li r2, SHARED
    wait 1, 1
    dma.i32.i32 0, r1, r2, r3
    halt
