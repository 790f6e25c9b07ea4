# trap: ends the program with the given code. The test expects this program to end by `trap 77` of tile 0, and by nothing else.
.include "lib.inc"

.tile
    only_tile_0
    li r1, 1
    beqz r1, other              # a trap that is not reached does nothing
    trap 77
other:
    trap 1
