.tensr a, hbm, f32, [1], payload
.tensor a, hbn, f32, [1], payload
.tensor a, hbm, fp32, [1], payload
.tensor a, hbm, f32, [0], payload
.tensor a, hbm, f32, [1, 1, 1, 1, 1, 1, 1, 1, 1], payload
.tensor a, hbm, f32, 4, payload
.tensor a, hbm, f32, [4], data
.tensor a, hbm, f32, [4], payload, ones
.tensor a, hbm, f32, [4], payload, values()
.tensor a, hbm, f32, [4], payload, at -1
.tensor a, tsram, f32, [1 << 40], payload
.tensor a, hbm, f32, [4], payload
.tensor a, hbm, f32, [4], payload
.expect b, zero
.expect a, zero
.expect a, iota
.align 3
.const
.const a, 1
.equ x
.equ y, y + 1
.reg r5, r6
.reg acc, q6
.note key
.loc "f", -1
.loc "", 1
.file
.rept 65537
.endr
.endif
.else
.endm
.endr
.chip now
.tensor narrow, hbm, e2m1, [2, 5], payload, pitch 2
# ---- expected ----
# error: no directive is called `.tensr`
#  --> err_directives.s:1:1
#   |
# 1 | .tensr a, hbm, f32, [1], payload
#   | ^^^^^^
#   |
#   = help: did you mean `.tensor`?
#
# error: `hbn` is no memory
#  --> err_directives.s:2:12
#   |
# 2 | .tensor a, hbn, f32, [1], payload
#   |            ^^^
#   |
#   = help: did you mean `hbm`?
#
# error: `fp32` is no element type
#  --> err_directives.s:3:17
#   |
# 3 | .tensor a, hbm, fp32, [1], payload
#   |                 ^^^^
#   |
#   = help: did you mean `f32`?
#
# error: extent 0 is not positive
#  --> err_directives.s:4:23
#   |
# 4 | .tensor a, hbm, f32, [0], payload
#   |                       ^
#
# error: 9 dimensions, more than 8
#  --> err_directives.s:5:22
#   |
# 5 | .tensor a, hbm, f32, [1, 1, 1, 1, 1, 1, 1, 1, 1], payload
#   |                      ^
#
# error: expected `[`, found `4`
#  --> err_directives.s:6:22
#   |
# 6 | .tensor a, hbm, f32, 4, payload
#   |                      ^
#   |
#   = help: syntax: .tensor NAME, hbm|csram|tsram, DTYPE, [d0, d1, ..], payload|control [, INIT] [, at OFFSET] [, pitch BYTES]
#
# error: `data` is no class
#  --> err_directives.s:7:27
#   |
# 7 | .tensor a, hbm, f32, [4], data
#   |                           ^^^^
#   |
#   = help: one of payload, control
#
# error: `ones` is no initial contents
#  --> err_directives.s:8:36
#   |
# 8 | .tensor a, hbm, f32, [4], payload, ones
#   |                                    ^^^^
#   |
#   = help: one of none, zero, iota, normal, values
#
# error: expected an expression, found `)`
#  --> err_directives.s:9:43
#   |
# 9 | .tensor a, hbm, f32, [4], payload, values()
#   |                                           ^
#   |
#   = help: syntax: .tensor NAME, hbm|csram|tsram, DTYPE, [d0, d1, ..], payload|control [, INIT] [, at OFFSET] [, pitch BYTES]
#
# error: offset -1 is negative
#   --> err_directives.s:10:39
#    |
# 10 | .tensor a, hbm, f32, [4], payload, at -1
#    |                                       ^
#
# error: `a` takes 4398046511104 bytes from offset 0x0, past the 0x100000000 bytes that a tsram address reaches
#   --> err_directives.s:11:9
#    |
# 11 | .tensor a, tsram, f32, [1 << 40], payload
#    |         ^
#
# error: `a` is already defined
#   --> err_directives.s:13:9
#    |
# 13 | .tensor a, hbm, f32, [4], payload
#    |         ^
#
# error: `b` is no tensor
#   --> err_directives.s:14:9
#    |
# 14 | .expect b, zero
#    |         ^
#
# error: `a` already has an expectation
#   --> err_directives.s:16:9
#    |
# 16 | .expect a, iota
#    |         ^
#
# error: alignment 3 is no power of two up to 1073741824
#   --> err_directives.s:17:8
#    |
# 17 | .align 3
#    |        ^
#
# error: expected the table's name, or `_`, found the end of the line
#   --> err_directives.s:18:7
#    |
# 18 | .const
#    |       ^
#    |
#    = help: syntax: .const NAME, e0, e1, ..
#
# error: `a` is already defined
#   --> err_directives.s:19:8
#    |
# 19 | .const a, 1
#    |        ^
#
# error: expected `,`, found the end of the line
#   --> err_directives.s:20:7
#    |
# 20 | .equ x
#    |       ^
#    |
#    = help: syntax: .equ NAME, EXPR
#
# error: undefined symbol `y`
#   --> err_directives.s:21:9
#    |
# 21 | .equ y, y + 1
#    |         ^
#
# error: `r5` is a register's own name
#   --> err_directives.s:22:6
#    |
# 22 | .reg r5, r6
#    |      ^^
#
# error: `q6` is no register
#   --> err_directives.s:23:11
#    |
# 23 | .reg acc, q6
#    |           ^^
#    |
#    = help: registers are r0 to r31, s0 to s15, v0 to v31 and p0 to p7
#
# error: expected `,`, found the end of the line
#   --> err_directives.s:24:10
#    |
# 24 | .note key
#    |          ^
#    |
#    = help: syntax: .note KEY, "VALUE"
#
# error: line -1 outside 0 to 4294967295
#   --> err_directives.s:25:11
#    |
# 25 | .loc "f", -1
#    |           ^
#
# error: a file without a name
#   --> err_directives.s:26:6
#    |
# 26 | .loc "", 1
#    |      ^^
#
# error: expected a string, found the end of the line
#   --> err_directives.s:27:6
#    |
# 27 | .file
#    |      ^
#    |
#    = help: syntax: .file "FILE"
#
# error: repetition count 65537 outside 0 to 65536
#   --> err_directives.s:28:7
#    |
# 28 | .rept 65537
#    |       ^^^^^
#
# error: `.endif` without `.if`
#   --> err_directives.s:30:1
#    |
# 30 | .endif
#    | ^^^^^^
#
# error: `.else` without `.if`
#   --> err_directives.s:31:1
#    |
# 31 | .else
#    | ^^^^^
#
# error: `.endm` without its beginning
#   --> err_directives.s:32:1
#    |
# 32 | .endm
#    | ^^^^^
#
# error: `.endr` without its beginning
#   --> err_directives.s:33:1
#    |
# 33 | .endr
#    | ^^^^^
#
# error: expected the end of the line, found `now`
#   --> err_directives.s:34:7
#    |
# 34 | .chip now
#    |       ^^^
#    |
#    = help: syntax: .chip
#
# error: pitch 2 is below the 3 bytes of a row
#   --> err_directives.s:35:51
#    |
# 35 | .tensor narrow, hbm, e2m1, [2, 5], payload, pitch 2
#    |                                                   ^
#
