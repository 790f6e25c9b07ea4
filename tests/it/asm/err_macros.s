.macro forever x
  forever \x
.endm
.macro two a, b
  add \a, \b, rx
  mul \a, \b
.endm
.macro nest p
  two \p, r2
.endm
.macro add x
.endm
.macro two x
.endm
.macro bad 3x
.endm
.macro dup x, x
.endm
.tile
  forever 1
  two r1
  two r1, r2, r3
  nest r7
.rept 2
  bogus
.endr
  tow r1, r2
.if 1
  halt
.rept 4
# ---- expected ----
# error: macros nested deeper than 64
#  --> err_macros.s:2:3
#   |
# 2 |   forever \x
#   |   ^^^^^^^
#   |
#   = note: the line reads `forever 1`
#   = note: in the expansion of `forever` at err_macros.s:2
#   = note: in the expansion of `forever` at err_macros.s:20
#
# error: `rx` is no control register (r0 to r31)
#  --> err_macros.s:5:15
#   |
# 5 |   add \a, \b, rx
#   |               ^^
#   |
#   = note: the line reads `add r7, r2, rx`
#   = note: in the expansion of `two` at err_macros.s:9
#   = note: in the expansion of `nest` at err_macros.s:23
#   = help: did you mean `ra`?
#
# error: expected `,` and operand `rs2`, found the end of the line
#  --> err_macros.s:6:13
#   |
# 6 |   mul \a, \b
#   |             ^
#   |
#   = note: the line reads `mul r7, r2`
#   = note: in the expansion of `two` at err_macros.s:9
#   = note: in the expansion of `nest` at err_macros.s:23
#   = help: syntax: mul {rd}, {rs1}, {rs2}
#
# error: `add` is an instruction or a directive
#   --> err_macros.s:11:1
#    |
# 11 | .macro add x
#    | ^^^^^^
#    |
#    = help: syntax: .macro NAME a, b=default
#
# error: macro `two` is already defined
#   --> err_macros.s:13:1
#    |
# 13 | .macro two x
#    | ^^^^^^
#    |
#    = help: syntax: .macro NAME a, b=default
#
# error: `3x` is no name for a parameter
#   --> err_macros.s:15:1
#    |
# 15 | .macro bad 3x
#    | ^^^^^^
#    |
#    = help: syntax: .macro NAME a, b=default
#
# error: parameter `x` stands twice
#   --> err_macros.s:17:1
#    |
# 17 | .macro dup x, x
#    | ^^^^^^
#    |
#    = help: syntax: .macro NAME a, b=default
#
# error: macro `two` needs an argument for `b`
#   --> err_macros.s:21:3
#    |
# 21 |   two r1
#    |   ^^^^^^
#
# error: macro `two` takes 2 arguments, found 3
#   --> err_macros.s:22:3
#    |
# 22 |   two r1, r2, r3
#    |   ^^^^^^^^^^^^^^
#
# error: no instruction is called `bogus`
#   --> err_macros.s:25:3
#    |
# 25 |   bogus
#    |   ^^^^^
#
# error: no instruction is called `tow`
#   --> err_macros.s:27:3
#    |
# 27 |   tow r1, r2
#    |   ^^^
#    |
#    = help: did you mean `two`?
#
# error: `.if` without `.endif`
#   --> err_macros.s:28:1
#    |
# 28 | .if 1
#    | ^^^^^
#
# error: `.rept` without `.endr`
#   --> err_macros.s:30:1
#    |
# 30 | .rept 4
#    | ^^^^^
#
