# addi: add a sign-extended 32-bit immediate.
.include "lib.inc"

# addi of \a and the immediate \b gives \want
.macro case a, b, want, code
    set r1, \a
    addi r2, r1, \b
    check_eq r2, \want, \code
.endm

.tile
    only_tile_0
    case 2, 3, 5, 1
    case 5, -8, -3, 2
    case 0, 0x7fffffff, 0x7fffffff, 3                                   # the largest immediate
    case 0, 0xffffffff80000000, 0xffffffff80000000, 4                   # the least: the sign fills 64 bits
    case 0x7fffffffffffffff, 1, 0x8000000000000000, 5                   # wraps to the least
    case 0xffffffff, 1, 0x100000000, 6                                  # all 64 bits take part

    set r1, 3                   # source and destination may be the same
    addi r1, r1, 1
    check_eq r1, 4, 90
    addi r0, r1, 1              # r0 stays zero
    check_eq r0, 0, 91
    halt
