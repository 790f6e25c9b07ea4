# stream_copy: copy a large array from HBM to HBM through the SRAM of every tile.
#
# What to learn here
#   - Every tile runs the same control program; `rdsr` tells a tile who it is and how many there are.
#   - A `dma` is not done when the instruction is passed: it is pushed into a channel, an in-order queue of its own.
#     `wait` and `signal` clauses before it order it against other queues, through counting semaphores.
#   - Each SRAM buffer ("slot") has two semaphores: FREE (it may be filled) and FULL (it may be emptied). With several
#     slots the loads run ahead of the stores, so that HBM's latency of hundreds of nanoseconds is hidden.
#
# The array is cut into chunks of CHUNK bytes; tile t copies chunks t, t + tiles, t + 2 tiles, ... The last one may be short.

.equ BYTES, 64 << 20            # to copy; any multiple of 4
.equ CHUNK, 48 << 10            # bytes of one dma
.equ SLOTS, 4                   # 4 x 48 KiB fit the smallest preset's TSRAM

.tensor SRC, hbm, f32, [BYTES / 4], payload, normal(1)
.tensor DST, hbm, f32, [BYTES / 4], payload
.expect DST, normal(1)
.tensor BUF, tsram, u8, [SLOTS, CHUNK], payload

.equ FREE, 0                    # semaphores FREE + slot
.equ FULL, SLOTS                # semaphores FULL + slot

.reg me,   r1                   # this tile
.reg off,  r2                   # byte offset of the chunk
.reg step, r3                   # bytes from a chunk of this tile to its next
.reg end,  r4
.reg len,  r5
.reg src,  r6
.reg dst,  r7
.reg buf,  r8
.reg t,    r9

# One chunk through slot \s: load on channel \in, store on channel \out.
.macro chunk s, in, out
    bge off, end, done
    sub len, end, off           # the last chunk of all may be short
    li t, CHUNK
    min len, len, t
    li buf, BUF + \s * CHUNK
    li src, SRC
    add src, src, off
    li dst, DST
    add dst, dst, off

    wait FREE + \s, 1           # the store that used this slot before is done
    signal FULL + \s, 1
    dma.u8.u8 \in, buf, src, len

    wait FULL + \s, 1           # the load above is done
    signal FREE + \s, 1
    dma.u8.u8 \out, dst, buf, len
    add off, off, step
.endm

.tile
    rdsr me, tile
    muli off, me, CHUNK
    rdsr step, tiles
    muli step, step, CHUNK
    li end, BYTES
.set i, 0
.rept SLOTS
    sem.post me, FREE + i, 1    # all slots start free
.set i, i + 1
.endr

# Two channels each way: while one waits for HBM to answer, the other moves data.
loop4:
    chunk 0, 0, 2
    chunk 1, 1, 3
    chunk 2, 0, 2
    chunk 3, 1, 3
    j loop4
done:
    halt                        # the processor stops; what it pushed goes on to its end
