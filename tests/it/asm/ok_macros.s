.macro copy dst, src, len=r7
  dma.u8.u8 0, \dst, \src, \len
.endm
.macro countdown reg, times
  li \reg, \times
again\@:
  dec \reg
  bnez \reg, again\@
.endm
.macro twice what
  \what
  \what
.endm
.macro fill n
  .if \n > 0
    li r1, \n
    fill \n - 1
  .else
    nop
  .endif
.endm
.set i, 0
.tile
  copy r1, r2
  copy len=r9, dst=r1, src=r2
  countdown r3, 4
  countdown r4, max(2, 5)
  fill 3
  twice inc r5
.rept 3
  li r10, i * i
  .rept 2
    addi r11, r10, i
  .endr
  .set i, i + 1
.endr
.if defined(nothing)
  bogus that is never read
  .if 1
    neither
  .endif
.else
  halt
.endif
# ---- expected ----
# .file "ok_macros.s"
# .loc none
#
# .tile
#   .loc "ok_macros.s", 24
#   dma.u8.u8 0, r1, r2, r7
#   .loc "ok_macros.s", 25
#   dma.u8.u8 0, r1, r2, r9
#   .loc "ok_macros.s", 26
#   li r3, 4
# again3:
#   addi r3, r3, -1
#   bne r3, r0, again3
#   .loc "ok_macros.s", 27
#   li r4, 5
# again4:
#   addi r4, r4, -1
#   bne r4, r0, again4
#   .loc "ok_macros.s", 28
#   li r1, 3
#   li r1, 2
#   li r1, 1
#   addi r0, r0, 0
#   .loc "ok_macros.s", 29
#   addi r5, r5, 1
#   addi r5, r5, 1
#   .loc "ok_macros.s", 31
#   li r10, 0
#   .loc "ok_macros.s", 33
#   addi r11, r10, 0
#   addi r11, r10, 0
#   .loc "ok_macros.s", 31
#   li r10, 1
#   .loc "ok_macros.s", 33
#   addi r11, r10, 1
#   addi r11, r10, 1
#   .loc "ok_macros.s", 31
#   li r10, 4
#   .loc "ok_macros.s", 33
#   addi r11, r10, 2
#   addi r11, r10, 2
#   .loc "ok_macros.s", 43
#   halt
