# muli: multiply by a sign-extended 32-bit immediate.
.include "lib.inc"

# muli of \a and the immediate \b gives \want
.macro case a, b, want, code
    set r1, \a
    muli r2, r1, \b
    check_eq r2, \want, \code
.endm

.tile
    only_tile_0
    case 6, 7, 42, 1
    case 6, -7, -42, 2
    case -6, -7, 42, 3
    case 0x7fffffff, 0x7fffffff, 0x3fffffff00000001, 4                  # the product has 64 bits
    case 0x10000000000, 0x40000000, 0, 5                                # nothing left of it
    case 1, 0xffffffff80000000, 0xffffffff80000000, 6

    set r1, 3                   # source and destination may be the same
    muli r1, r1, 1
    check_eq r1, 3, 90
    muli r0, r1, 1              # r0 stays zero
    check_eq r0, 0, 91
    halt
