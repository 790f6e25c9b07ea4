.tensor weights, hbm, f32, [2, 3], payload
.tile
  li r1, 1 +
  li r1, (1 + 2
  li r1, 9223372036854775807 + 1
  li r1, 9223372036854775808
  li r1, 1 << 63
  li r1, 1 << 64
  li r1, 1 / (2 - 2)
  li r1, 1.5
  li r1, weight
  li r1, size(r1)
  li r1, dim(weights, 2)
  li r1, dim(weights)
  li r1, 0xg
  li r1, 12_3a
  li r1, 2f
  li r1, wieghts + 1 +
  li r1, (((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((1)))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))))
# ---- expected ----
# error: expected an expression, found the end of the line
#  --> err_expressions.s:3:13
#   |
# 3 |   li r1, 1 +
#   |             ^
#   |
#   = help: syntax: li {rd}, {imm}
#
# error: expected `)`, found the end of the line
#  --> err_expressions.s:4:16
#   |
# 4 |   li r1, (1 + 2
#   |                ^
#   |
#   = help: syntax: li {rd}, {imm}
#
# error: 9223372036854775807 + 1 does not fit in 64 bits
#  --> err_expressions.s:5:10
#   |
# 5 |   li r1, 9223372036854775807 + 1
#   |          ^^^^^^^^^^^^^^^^^^^^^^^
#
# error: number 9223372036854775808 past the largest, 9223372036854775807
#  --> err_expressions.s:6:10
#   |
# 6 |   li r1, 9223372036854775808
#   |          ^^^^^^^^^^^^^^^^^^^
#
# error: 1 << 63 does not fit in 64 bits
#  --> err_expressions.s:7:10
#   |
# 7 |   li r1, 1 << 63
#   |          ^^^^^^^
#
# error: shift by 64 outside 0 to 63
#  --> err_expressions.s:8:15
#   |
# 8 |   li r1, 1 << 64
#   |               ^^
#
# error: division by zero
#  --> err_expressions.s:9:10
#   |
# 9 |   li r1, 1 / (2 - 2)
#   |          ^^^^^^^^^^
#
# error: fractional number 1.5 where an integer is needed
#   --> err_expressions.s:10:10
#    |
# 10 |   li r1, 1.5
#    |          ^^^
#    |
#    = help: `float(x)` gives the FP32 bits of a number
#
# error: undefined symbol `weight`
#   --> err_expressions.s:11:10
#    |
# 11 |   li r1, weight
#    |          ^^^^^^
#    |
#    = help: did you mean `weights`?
#
# error: `r1` is no tensor
#   --> err_expressions.s:12:15
#    |
# 12 |   li r1, size(r1)
#    |               ^^
#
# error: dimension 2 of `weights`, which has 2
#   --> err_expressions.s:13:23
#    |
# 13 |   li r1, dim(weights, 2)
#    |                       ^
#
# error: `dim` takes 2 arguments, found 1
#   --> err_expressions.s:14:10
#    |
# 14 |   li r1, dim(weights)
#    |          ^^^^^^^^^^^^
#
# error: malformed number `0xg`: invalid digit found in string
#   --> err_expressions.s:15:10
#    |
# 15 |   li r1, 0xg
#    |          ^^^
#
# error: malformed number `12_3a`
#   --> err_expressions.s:16:10
#    |
# 16 |   li r1, 12_3a
#    |          ^^^^^
#
# error: no local label `2:` after this line in the section
#   --> err_expressions.s:17:10
#    |
# 17 |   li r1, 2f
#    |          ^^
#
# error: expected an expression, found the end of the line
#   --> err_expressions.s:18:23
#    |
# 18 |   li r1, wieghts + 1 +
#    |                       ^
#    |
#    = help: syntax: li {rd}, {imm}
#
# error: expression nested deeper than 64
#   --> err_expressions.s:19:75
#    |
# 19 |   li r1, (((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((1)))))))))))))))))))))))))))))))))))))))))))))))))))))))...
#    |                                                                           ^
#
