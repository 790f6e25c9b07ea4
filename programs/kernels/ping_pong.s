# ping_pong: two tiles pass a buffer to and fro, tile 0 the producer and tile 1 the consumer that answers.
#
# What to learn here
#   - A tile's DMA writes into another tile's SRAM directly: an address with space 2 and the tile's number.
#   - `signal.dest` adds to a semaphore *of the tile written to*, once the last byte is there: the receiver needs no
#     polling.
#   - The reply is at the same time the permission to send again, so one buffer each way is enough.
#
# Each round tile 0 sends WORDS integers, tile 1 adds 1 to each and sends them back, tile 0 doubles them. After ROUNDS
# rounds from all zero, x -> 2 (x + 1), every integer is 2^(ROUNDS + 1) - 2. Tile 0 stores them to HBM, where `.expect`
# checks them after the run.

.equ WORDS, 1024
.equ ROUNDS, 8

.tensor RESULT, hbm, i32, [WORDS], payload
.expect RESULT, values((2 << ROUNDS) - 2)
.tensor BALL, tsram, i32, [WORDS], payload, zero

.equ TILE_SPACE, 2 << 40        # SRAM of tile t: TILE_SPACE + (t << 32) + offset
.equ OWN_SPACE, 4 << 40         # the own SRAM, which tensor names stand for
.equ BALL_OF_0, BALL - OWN_SPACE + TILE_SPACE
.equ BALL_OF_1, BALL_OF_0 + (1 << 32)

.equ ARRIVED, 0                 # semaphore: the ball is here
.equ READY, 1                   # semaphore: the vector kernel is through with it

.reg round, r1
.reg other, r2
.reg ball,  r3                  # arguments of the kernels: address, vectors
.reg count, r4
.reg words, r5
.reg x,     r6

.tile
    li ball, BALL
    li count, WORDS / 128
    li words, WORDS
    li round, ROUNDS
    rdsr x, tile
    beqz x, producer
    dec x
    beqz x, consumer
    halt                        # all other tiles

producer:
    li other, BALL_OF_1
serve:
    signal.dest ARRIVED, 1
    dma.i32.i32 0, other, ball, words
    wait ARRIVED, 1             # the reply
    signal READY, 1
    vrun double, ball, 2
    sem.wait READY, 1           # the processor itself waits: the next send must not overtake the kernel
    dec round
    bnez round, serve

    li x, RESULT
    dma.i32.i32 0, x, ball, words
    halt

consumer:
    li other, BALL_OF_0
return:
    wait ARRIVED, 1
    signal READY, 1
    vrun increment, ball, 2
    wait READY, 1               # here the DMA waits, and the processor goes on
    signal.dest ARRIVED, 1
    dma.i32.i32 0, other, ball, words
    dec round
    bnez round, return
    halt

# s1: address, s2: vectors of 128 integers.
.kernel increment
    sli s3, 1
    vbc.i32 v1, s3
    loop s2, 1f
    vld.i32 v0, 0(s1)
    vadd.i32 v0, v0, v1
    vst.i32 v0, 0(s1)
    saddi s1, s1, 512
1:
    vret

.kernel double
    loop s2, 1f
    vld.i32 v0, 0(s1)
    vadd.i32 v0, v0, v0
    vst.i32 v0, 0(s1)
    saddi s1, s1, 512
1:
    vret
