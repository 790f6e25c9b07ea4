# jal: jump and keep the address of the next word. Addresses count words from the program's start.
.include "lib.inc"

.tile
    only_tile_0
    li r2, 0
    jal r31, subroutine
after:
    addi r2, r2, 1              # executed once, on return
    li r3, 101
    bne r2, r3, wrong           # 100 in the subroutine, 1 after it
    jal r0, forward             # without a return address: r0 stays zero
    trap 1
backward:
    li r1, after                # a label is the number of its word
    bne r31, r1, wrong_link
    check_eq r0, 0, 2
    halt
forward:
    jal r0, backward
    trap 3
subroutine:
    addi r2, r2, 100
    jalr r0, 0(r31)
    trap 4
wrong:
    trap 5
wrong_link:
    trap 6
