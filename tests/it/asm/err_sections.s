  add r1, r2, r3
  sub r1, r2, r3
early:
.tile
  vadd.f32 v1, v2, v3
  sadd s1, s2, s3
twice: nop
twice: nop
  j only_in_cluster
.cluster
only_in_cluster: halt
.kernel empty
.kernel open
  vmov v1, v2
.kernel open
  vret
.kernel mixed
  add r1, r2, r3
  vret
stray:
# ---- expected ----
# error: instruction outside a section
#  --> err_sections.s:1:3
#   |
# 1 |   add r1, r2, r3
#   |   ^^^
#   |
#   = help: begin with `.tile`, `.cluster`, `.chip` or `.kernel NAME`
#
# error: label outside a section
#  --> err_sections.s:3:1
#   |
# 3 | early:
#   | ^^^^^^
#   |
#   = help: begin with `.tile`, `.cluster`, `.chip` or `.kernel NAME`
#
# error: `vadd` is a kernel instruction, and this is a control program
#  --> err_sections.s:5:3
#   |
# 5 |   vadd.f32 v1, v2, v3
#   |   ^^^^^^^^
#   |
#   = help: syntax: add {rd}, {rs1}, {rs2}
#
# error: `sadd` is a kernel instruction, and this is a control program
#  --> err_sections.s:6:3
#   |
# 6 |   sadd s1, s2, s3
#   |   ^^^^
#   |
#   = help: syntax: add {rd}, {rs1}, {rs2}
#
# error: label `twice` is already defined
#  --> err_sections.s:8:1
#   |
# 8 | twice: nop
#   | ^^^^^^
#
# error: undefined symbol `only_in_cluster`
#  --> err_sections.s:9:5
#   |
# 9 |   j only_in_cluster
#   |     ^^^^^^^^^^^^^^^
#
# error: kernel `empty` does not end in `vret`
#   --> err_sections.s:12:9
#    |
# 12 | .kernel empty
#    |         ^^^^^
#
# error: kernel `open` does not end in `vret`
#   --> err_sections.s:13:9
#    |
# 13 | .kernel open
#    |         ^^^^
#
# error: kernel `open` is already defined
#   --> err_sections.s:15:9
#    |
# 15 | .kernel open
#    |         ^^^^
#
# error: label `stray` stands after the last instruction of kernel `mixed`
#   --> err_sections.s:17:9
#    |
# 17 | .kernel mixed
#    |         ^^^^^
#
# error: `add` is a control instruction, and this is a vector kernel
#   --> err_sections.s:18:3
#    |
# 18 |   add r1, r2, r3
#    |   ^^^
#    |
#    = help: syntax: sadd {sd}, {sa}, {sb}
#
