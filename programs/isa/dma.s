# dma: moves a row of elements between memories, with conversion. A channel starts its operations in order, but only semaphores
# make one wait for another's data.
.include "lib.inc"
.tensor IN, hbm, f32, [8], payload, values(1, -2.5, 448, 1000, 1.0625, 1.1875, -0.0, 3)
.tensor LOCAL, tsram, f32, [8], payload
.tensor BF, tsram, bf16, [8], payload
.tensor F8, tsram, e4m3, [8], payload
.tensor I8, tsram, i8, [8], payload
.tensor BACK, hbm, f32, [8], payload
.tensor PART, hbm, f32, [4], payload, zero
.tensor SHARED, csram, f32, [8], payload

.expect LOCAL, values(1, -2.5, 448, 1000, 1.0625, 1.1875, -0.0, 3)
.expect BF, values(1, -2.5, 448, 1000, 1.0625, 1.1875, -0.0, 3)
# E4M3 has 3 bits of fraction: 1.0625 is half way between 1 and 1.125 and goes to the even one, so does 1.1875; 1000 is past
# the largest, 448. Integers round to even and saturate too.
.expect F8, values(1, -2.5, 448, 448, 1, 1.25, -0.0, 3)
.expect I8, values(1, -2, 127, 127, 1, 1, 0, 3)
.expect BACK, values(1, -2.5, 448, 448, 1, 1.25, -0.0, 3)
.expect SHARED, values(1, -2.5, 448, 448, 1, 1.25, -0.0, 3)
.expect PART, values(0, 448, 1000, 0)

.tile
    only_tile_0
    li r4, 8
    li r1, LOCAL
    li r2, IN
    signal 0, 3                 # three transfers use what this one brings
    dma.f32.f32 0, r1, r2, r4
    li r2, LOCAL
    li r1, BF
    wait 0, 1
    dma.f32.bf16 0, r1, r2, r4
    li r1, F8
    wait 0, 1
    signal 1, 1
    dma.f32.e4m3 0, r1, r2, r4
    li r1, I8
    wait 0, 1
    dma.f32.i8 0, r1, r2, r4
    li r1, SHARED
    li r2, F8
    wait 1, 1
    signal 2, 1
    dma.e4m3.f32 0, r1, r2, r4
    li r1, BACK
    li r2, SHARED
    wait 2, 1
    dma.f32.f32 0, r1, r2, r4
    # From HBM to HBM, a part.
    li r1, PART + 4
    li r2, IN + 8
    li r4, 2
    dma.f32.f32 0, r1, r2, r4
    halt
