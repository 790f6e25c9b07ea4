# ori: bitwise or with a sign-extended immediate.
.include "lib.inc"

# ori of \a and the immediate \b gives \want
.macro case a, b, want, code
    set r1, \a
    ori r2, r1, \b
    check_eq r2, \want, \code
.endm

.tile
    only_tile_0
    case 12, 10, 14, 1
    case 0, -16, -16, 2                                                 # a negative immediate sets the upper bits
    case 0x10000000000, 0x7fffffff, 0x1007fffffff, 3
    case 1, 0xffffffff80000000, 0xffffffff80000001, 4

    set r1, 3                   # source and destination may be the same
    ori r1, r1, 1
    check_eq r1, 3, 90
    ori r0, r1, 1              # r0 stays zero
    check_eq r0, 0, 91
    halt
