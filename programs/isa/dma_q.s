# dma.q: moves rows and quantises their blocks, codes to one place and scales to another.
.include "lib.inc"
# Two rows of two blocks of 32. Row 0: 24 -8 4 3 1 and zeros; 31, then 1. Row 1: zeros; 0.5, then 0.
.tensor ROW0, tsram, f32, [64], payload, values(24, -8, 4, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 1)
.tensor ROW1, tsram, f32, [64], payload, values(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0)
.tensor ROWS, tsram, f32, [2, 64], payload, at 0          # both
.tensor WIDE, hbm, bf16, [64], payload, values(1000, 448, -3, 0)

# floor: 2^4 <= 24 < 2^5 and E2M1 ends at 1.5 * 2^2, so 2^2 (E8M0 129): 6 -2 1, 0.75 is a tie and goes to 1, 0.25 is a tie and goes
# to 0. 31 has the same scale and saturates; 1 / 4 goes to 0. Zeros: scale 0. 0.5: 2^-3 (124), 4.
.tensor FLOOR, tsram, e2m1, [2, 64], payload
.expect FLOOR, values(6, -2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0)
# Block by block, the rows of a block side by side, 3 bytes between blocks; the byte between them is kept.
.tensor FLOOR_S, tsram, u8, [5], payload, values(9)
.expect FLOOR_S, values(129, 0, 9, 129, 124)

# rceil: 31 <= 6 * 2^3 needs 2^3 (130): 3.875 goes to 4, 0.125 to 0. 24 <= 6 * 2^2 as before.
.tensor CEIL, tsram, e2m1, [64], payload
.expect CEIL, values(6, -2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0)
.tensor CEIL_S, tsram, u8, [2], payload
.expect CEIL_S, values(129, 130)

# nvfp4 under g = 0.5, blocks of 16: 24 / (6 * 0.5) = 8 (UE4M3 0x50), elements in units of 8 * 0.5 = 4. A block of zeros: 0.
# 31 / 3 = 10.33 goes to 10 (0x52), units of 5: 6.2 and 0.2 go to 6 and 0. All ones: 1 / 3 = 0.333 goes to 0.34375 (0x2b), units of
# 0.171875: 5.82 goes to 6.
.tensor NV, tsram, e2m1, [64], payload
.expect NV, values(6, -2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6)
.tensor NV_S, tsram, u8, [4], payload
.expect NV_S, values(0x50, 0, 0x52, 0x2b)

# From HBM, FP8, to both ends of a multicast (here one tile): 2^9 <= 1000, E4M3 ends in 2^8: 2^1 (128), 500 saturates, 224, -1.5.
.tensor FP8, tsram, e4m3, [64], payload
.expect FP8, values(448, 224, -1.5, 0)
.tensor FP8_S, tsram, u8, [2], payload
.expect FP8_S, values(128, 0)

# FP6 into the cluster's SRAM: E2M3 ends in 1.875 * 2^2. 2^2 again: 6, -2, 1, 0.75, 0.25, which FP6 holds.
.tensor FP6, csram, e2m3, [64], payload
.expect FP6, values(6, -2, 1, 0.75, 0.25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7.5, 0.25)
.tensor FP6_S, csram, u8, [2], payload
.expect FP6_S, values(129, 129)

.tile
    only_tile_0
    li r1, FLOOR
    li r2, ROW0
    li r3, 64
    li r4, FLOOR_S
    li r5, 3                    # bytes between the scales of blocks
    li r6, 2                    # rows
    li r7, 32                   # bytes of a row of codes
    li r8, ROW1 - ROW0
    dim r6, r7, r8
    dma.q.floor.f32.e2m1 0, r1, r2, r3, r4, r5, r0
    li r5, 1
    li r1, CEIL
    li r4, CEIL_S
    dma.q.rceil.f32.e2m1 0, r1, r2, r3, r4, r5, r0
    li r1, NV
    li r4, NV_S
    li r6, float(0.5)
    dma.q.nvfp4.f32.e2m1 1, r1, r2, r3, r4, r5, r6
    li r1, FP6
    li r4, FP6_S
    dma.q.floor.f32.e2m3 1, r1, r2, r3, r4, r5, r0
    li r1, FP8
    li r2, WIDE
    li r4, FP8_S
    li r6, 1
    mcast r6
    dma.q.floor.bf16.e4m3 0, r1, r2, r3, r4, r5, r0
    halt
