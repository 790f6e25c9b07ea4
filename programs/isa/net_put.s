# net.put: writes bytes of this chip into the memory of another. A machine of one chip reaches itself, chip 0.
.include "lib.inc"
.tensor IN, hbm, u8, [10], payload, iota
.tensor LOCAL, tsram, u8, [8], payload, values(99)
.tensor OUT, hbm, u8, [8], payload, values(99)
.expect LOCAL, values(99, 3, 4, 5, 6, 7, 99, 99)
.expect OUT, values(3, 4, 5, 99, 99, 99, 99, 99)

.tile
    only_tile_0
    li r1, LOCAL + 1
    li r2, IN + 3
    li r3, 5
    signal 0, 1
    net.put r0, r1, r2, r3      # from HBM into a tile's SRAM
    li r1, OUT
    li r2, LOCAL + 1
    li r3, 3
    wait 0, 1
    net.put r0, r1, r2, r3      # and back
    halt
