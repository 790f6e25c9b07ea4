# shri: logical shift right by an immediate of 0 to 63.
.include "lib.inc"

# shri of \a and the immediate \b gives \want
.macro case a, b, want, code
    set r1, \a
    shri r2, r1, \b
    check_eq r2, \want, \code
.endm

.tile
    only_tile_0
    case 48, 4, 3, 1
    case 48, 0, 48, 2
    case 0x8000000000000000, 63, 1, 3
    case -1, 60, 15, 4                                                  # zeros come in
    case 7, 1, 3, 5

    set r1, 3                   # source and destination may be the same
    shri r1, r1, 1
    check_eq r1, 1, 90
    shri r0, r1, 1              # r0 stays zero
    check_eq r0, 0, 91
    halt
