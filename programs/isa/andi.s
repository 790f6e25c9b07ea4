# andi: bitwise and with a sign-extended immediate.
.include "lib.inc"

# andi of \a and the immediate \b gives \want
.macro case a, b, want, code
    set r1, \a
    andi r2, r1, \b
    check_eq r2, \want, \code
.endm

.tile
    only_tile_0
    case 12, 10, 8, 1
    case 0x123456789abcdef0, -16, 0x123456789abcdef0, 2                 # a negative immediate keeps the upper bits
    case -1, 0x7fffffff, 0x7fffffff, 3
    case -1, 0xffffffff80000000, 0xffffffff80000000, 4

    set r1, 3                   # source and destination may be the same
    andi r1, r1, 1
    check_eq r1, 1, 90
    andi r0, r1, 1              # r0 stays zero
    check_eq r0, 0, 91
    halt
