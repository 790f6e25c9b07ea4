# vrun: runs a kernel with up to 12 registers as arguments, captured at the push; other registers of the kernel are zero and
# all predicates on.
.include "lib.inc"
.tensor ARGS, tsram, i32, [14], payload
.expect ARGS, values(100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 0, 0)
.tensor CLEAR, tsram, i32, [128], payload, values(-1)
.expect CLEAR, values(0)

.macro argument n
    li r\n, 92 + \n
.endm

.tile
    only_tile_0
    argument 8
    argument 9
    argument 10
    argument 11
    argument 12
    argument 13
    argument 14
    argument 15
    argument 16
    argument 17
    argument 18
    argument 19
    vrun arguments, r8, 12
    li r8, -1                   # too late to matter
    vrun cleared, r8, 0         # no argument: s1 is zero, and so is v1, which the kernel before wrote
    halt

.macro keep n
    vbc.i32 v1, s\n
    vst.i32 v1, 4 * (\n - 1)(s15) ?p1
.endm

.kernel arguments
    sli s15, 1
    vwhile.i32 p1, s15          # one lane
    sli s15, ARGS
    keep 1
    keep 2
    keep 3
    keep 4
    keep 5
    keep 6
    keep 7
    keep 8
    keep 9
    keep 10
    keep 11
    keep 12
    keep 13                     # not given: zero
    keep 14
    vret

.kernel cleared
    sli s2, CLEAR
    vbc.i32 v2, s1
    vor v1, v1, v2
    vst.i32 v1, 0(s2) ?p7       # all lanes
    vret
