# deadlock: a program that never ends, to see what the emulator says about it. It exits with code 4 and a report.
#
# Tiles 0 and 1 want to swap a buffer. Each waits for the other's data before it sends its own: the sends stand behind the
# receives in the same in-order channel, so that neither is ever reached. Nothing is wrong with any single instruction.
# The report names both waits, the semaphores, and who could have signalled them.
#
# The repair: push the send before the receive, or push the two into different channels.

.tensor MINE, tsram, u8, [4096], payload, iota
.tensor THEIRS, tsram, u8, [4096], payload
.tensor OUT, hbm, u8, [2, 4096], payload

.equ TILE_SPACE, 2 << 40
.equ OWN_SPACE, 4 << 40
.equ RECEIVED, 0                # semaphore: THEIRS holds the other tile's data

.reg me,    r1
.reg other, r2
.reg len,   r3
.reg src,   r4
.reg dst,   r5

.tile
    rdsr me, tile
    li len, 2
    blt me, len, swap
    halt                        # all other tiles
swap:
    li len, 4096

    # Receive: once the other's data is here, store it to HBM.
    li src, THEIRS
    shli dst, me, 12
    addi dst, dst, OUT
    wait RECEIVED, 1
    dma.u8.u8 0, dst, src, len

    # Send: behind the receive in channel 0.
    xori other, me, 1
    shli other, other, 32
    li dst, THEIRS - OWN_SPACE + TILE_SPACE
    add dst, dst, other
    li src, MINE
    signal.dest RECEIVED, 1
    dma.u8.u8 0, dst, src, len
    halt
