# mul: low 64 bits of the product.
.include "lib.inc"

# mul of \a and \b gives \want
.macro case a, b, want, code
    set r1, \a
    set r2, \b
    mul r3, r1, r2
    check_eq r3, \want, \code
.endm

.tile
    only_tile_0
    case 6, 7, 42, 1
    case -6, 7, -42, 2
    case -1, -1, 1, 3
    case 0x123456789, 0x100000001, 0x2345678a23456789, 4                # past 64 bits: the low ones stay
    case 0x100000000, 0x100000000, 0, 5                                 # nothing left
    case 0x8000000000000000, 3, 0x8000000000000000, 6

    set r1, 3                   # sources and destination may be the same
    mul r1, r1, r1
    check_eq r1, 9, 90
    set r2, 5
    mul r0, r2, r2             # r0 stays zero
    check_eq r0, 0, 91
    halt
