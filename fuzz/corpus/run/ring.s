# Tiles wait for each other, one of them for ever.
.tensor t, tsram, u8, [64], payload, iota
.tile
    rdsr r1, tile
    xori r2, r1, 1
    li r3, 2 << 40
    shli r4, r2, 32
    add r3, r3, r4
    li r4, t
    li r5, 64
    signal.dest 0, 1
    dma.u8.u8 0, r3, r4, r5
    sem.wait 0, 1
    net.put r0, r3, r4, r5
    sem.post r2, 1, 1
    sem.wait 1, 2
    halt
