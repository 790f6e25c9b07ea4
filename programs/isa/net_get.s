# net.get: reads bytes of another chip's memory into this one. A machine of one chip reaches itself, chip 0.
.include "lib.inc"
.tensor IN, hbm, u8, [10], payload, iota
.tensor LOCAL, tsram, u8, [8], payload, values(99)
.expect LOCAL, values(99, 3, 4, 5, 6, 7, 99, 99)

.tile
    only_tile_0
    li r1, LOCAL + 1
    li r2, IN + 3
    li r3, 5
    net.get r0, r1, r2, r3
    halt
