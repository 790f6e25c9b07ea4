# net.bcast: writes bytes to the same address of every chip of a mask. A machine of one chip has bit 0 only.
.include "lib.inc"
.tensor IN, hbm, u8, [10], payload, iota
.tensor LOCAL, tsram, u8, [8], payload, values(99)
.expect LOCAL, values(99, 3, 4, 5, 6, 7, 99, 99)

.tile
    only_tile_0
    li r1, LOCAL + 1
    li r2, IN + 3
    li r3, 5
    li r4, 1
    net.bcast r4, r1, r2, r3
    halt
