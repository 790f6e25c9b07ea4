# shli: shift left by an immediate of 0 to 63.
.include "lib.inc"

# shli of \a and the immediate \b gives \want
.macro case a, b, want, code
    set r1, \a
    shli r2, r1, \b
    check_eq r2, \want, \code
.endm

.tile
    only_tile_0
    case 3, 0, 3, 1
    case 3, 4, 48, 2
    case 1, 63, 0x8000000000000000, 3
    case 3, 63, 0x8000000000000000, 4                                   # the upper bit is lost

    set r1, 3                   # source and destination may be the same
    shli r1, r1, 1
    check_eq r1, 6, 90
    shli r0, r1, 1              # r0 stays zero
    check_eq r0, 0, 91
    halt
