.tile
  ad r1, r2, r3
  add r1, r2
  add r1, r2, r3, r4
  add r1 r2, r3
  add r1, s2, r3
  add r1, r2, r32
  addi r1, r2, 0x80000000
  shli r1, r2, 64
  li r1, r2
  lw r1, 4(r2
  lw r1, 4(v2)
  rdsr r1, tiel
  dma.bf61.f32 0, r1, r2, r3
  dma.f32 0, r1, r2, r3
  mm.new.f32.e4m3.mk.kn r1, r2, r3, r4, r5, r6, r7, r8
  mm.news.e4m3.e4m3.mk.kn r1, r2, r3, r4, r5, r6, r7, r8
  vrun sofmax, r8, 2
  add r1, r2, r3 ?p1
  mv r1
  j
  $ r1
  add r1, "r 2", @
  "unclosed
.kernel softmax
  vadd.f32 v1, v2, v3 ?v1
  vadd.e4m3 v1, v2, v3
  vret
# ---- expected ----
# error: no instruction is called `ad`
#  --> err_instructions.s:2:3
#   |
# 2 |   ad r1, r2, r3
#   |   ^^
#   |
#   = help: did you mean `add`?
#
# error: expected `,` and operand `rs2`, found the end of the line
#  --> err_instructions.s:3:13
#   |
# 3 |   add r1, r2
#   |             ^
#   |
#   = help: syntax: add {rd}, {rs1}, {rs2}
#
# error: expected the end of the line, found `,`
#  --> err_instructions.s:4:17
#   |
# 4 |   add r1, r2, r3, r4
#   |                 ^
#   |
#   = help: syntax: add {rd}, {rs1}, {rs2}
#
# error: expected `,` and operand `rs1`, found `r2`
#  --> err_instructions.s:5:10
#   |
# 5 |   add r1 r2, r3
#   |          ^^
#   |
#   = help: syntax: add {rd}, {rs1}, {rs2}
#
# error: operand `rs1` is a control register (r0 to r31), not `s2`
#  --> err_instructions.s:6:11
#   |
# 6 |   add r1, s2, r3
#   |           ^^
#
# error: `r32` is no control register (r0 to r31)
#  --> err_instructions.s:7:15
#   |
# 7 |   add r1, r2, r32
#   |               ^^^
#
# error: 2147483648 does not fit `imm` of `addi`: -2147483648 to 2147483647
#  --> err_instructions.s:8:16
#   |
# 8 |   addi r1, r2, 0x80000000
#   |                ^^^^^^^^^^
#   |
#   = help: load it with `li` and use `add`
#
# error: 64 does not fit `imm` of `shli`: 0 to 63
#  --> err_instructions.s:9:16
#   |
# 9 |   shli r1, r2, 64
#   |                ^^
#
# error: register `r2` where operand `imm` is a number
#   --> err_instructions.s:10:10
#    |
# 10 |   li r1, r2
#    |          ^^
#
# error: expected `)`, found the end of the line
#   --> err_instructions.s:11:14
#    |
# 11 |   lw r1, 4(r2
#    |              ^
#    |
#    = help: syntax: lw {rd}, {imm}({rs1})
#
# error: operand `rs1` is a control register (r0 to r31), not `v2`
#   --> err_instructions.s:12:12
#    |
# 12 |   lw r1, 4(v2)
#    |            ^^
#
# error: `tiel` is no value of `sr`
#   --> err_instructions.s:13:12
#    |
# 13 |   rdsr r1, tiel
#    |            ^^^^
#    |
#    = help: did you mean `tile`?
#
# error: `bf61` is no element type
#   --> err_instructions.s:14:7
#    |
# 14 |   dma.bf61.f32 0, r1, r2, r3
#    |       ^^^^
#    |
#    = help: did you mean `bf16`?
#
# error: `dma` takes 2 suffixes, found 1
#   --> err_instructions.s:15:3
#    |
# 15 |   dma.f32 0, r1, r2, r3
#    |   ^^^^^^^
#    |
#    = help: syntax: dma.{sdt}.{ddt} {ch}, {dst}, {src}, {len}
#
# error: element type `f32` cannot stand here
#   --> err_instructions.s:16:10
#    |
# 16 |   mm.new.f32.e4m3.mk.kn r1, r2, r3, r4, r5, r6, r7, r8
#    |          ^^^
#    |
#    = help: one of bf16, e4m3, e5m2, e2m1, e3m2, e2m3
#
# error: `news` is no value of `mode`
#   --> err_instructions.s:17:6
#    |
# 17 |   mm.news.e4m3.e4m3.mk.kn r1, r2, r3, r4, r5, r6, r7, r8
#    |      ^^^^
#    |
#    = help: did you mean `new`?
#
# error: no kernel is called `sofmax`
#   --> err_instructions.s:18:8
#    |
# 18 |   vrun sofmax, r8, 2
#    |        ^^^^^^
#    |
#    = help: did you mean `softmax`?
#
# error: `add` takes no predicate
#   --> err_instructions.s:19:18
#    |
# 19 |   add r1, r2, r3 ?p1
#    |                  ^
#    |
#    = help: syntax: add {rd}, {rs1}, {rs2}
#
# error: `mv` takes 2 operands, found 1
#   --> err_instructions.s:20:3
#    |
# 20 |   mv r1
#    |   ^^
#    |
#    = help: syntax: mv rd, rs
#
# error: `j` takes 1 operand, found 0
#   --> err_instructions.s:21:3
#    |
# 21 |   j
#    |   ^
#    |
#    = help: syntax: j target
#
# error: no instruction is called `$`
#   --> err_instructions.s:22:3
#    |
# 22 |   $ r1
#    |   ^
#
# error: unexpected character '@'
#   --> err_instructions.s:23:18
#    |
# 23 |   add r1, "r 2", @
#    |                  ^
#
# error: string without closing quote
#   --> err_instructions.s:24:3
#    |
# 24 |   "unclosed
#    |   ^^^^^^^^^
#
# error: operand `p` is a predicate register (p0 to p7), not `v1`
#   --> err_instructions.s:26:24
#    |
# 26 |   vadd.f32 v1, v2, v3 ?v1
#    |                        ^^
#
# error: element type `e4m3` cannot stand here
#   --> err_instructions.s:27:8
#    |
# 27 |   vadd.e4m3 v1, v2, v3
#    |        ^^^^
#    |
#    = help: one of f32, bf16, f16, i32
#
