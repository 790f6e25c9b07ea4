# xori: bitwise exclusive or with a sign-extended immediate.
.include "lib.inc"

# xori of \a and the immediate \b gives \want
.macro case a, b, want, code
    set r1, \a
    xori r2, r1, \b
    check_eq r2, \want, \code
.endm

.tile
    only_tile_0
    case 12, 10, 6, 1
    case 0x123456789abcdef0, -1, 0xedcba9876543210f, 2                  # -1 inverts all 64 bits
    case 0, 0xffffffff80000000, 0xffffffff80000000, 3
    case 0x10000000000, 0x7fffffff, 0x1007fffffff, 4

    set r1, 3                   # source and destination may be the same
    xori r1, r1, 1
    check_eq r1, 2, 90
    xori r0, r1, 1              # r0 stays zero
    check_eq r0, 0, 91
    halt
