.equ big, 0x7fff_ffff
.tile
  li r1, 1 + 2 * 3 - 4 / 2 % 3
  li r1, (1 + 2) * 3
  li r1, 1 << 4 | 3 & 6 ^ 1
  li r1, -7 / 2
  li r1, -7 % 2
  li r1, ~0
  li r1, !5 + !0
  li r1, -big - 1
  li r1, 0b1010_1010
  li r1, 1 < 2 && 2 >= 2 || 1 / 0
  li r1, 0 && 1 / 0
  li r1, 3 == 3 != 0
  li r1, min(-1, 2) + max(3, 4)
  li r1, float(1.5)
  li r1, float(-1 / 3)
  li r1, float(-inf)
  li r1, float(2.5e-3 * 4)
  li r1, defined(big) + defined(small)
  addi r1, r1, -(-5)
  lw r1, (4 + 4)(r2)
  lw r1, (r2)
  lw r1, 8
# ---- expected ----
# .file "ok_expressions.s"
# .loc none
#
# .tile
#   .loc "ok_expressions.s", 3
#   li r1, 5
#   .loc "ok_expressions.s", 4
#   li r1, 9
#   .loc "ok_expressions.s", 5
#   li r1, 19
#   .loc "ok_expressions.s", 6
#   li r1, -3
#   .loc "ok_expressions.s", 7
#   li r1, -1
#   .loc "ok_expressions.s", 8
#   li r1, -1
#   .loc "ok_expressions.s", 9
#   li r1, 1
#   .loc "ok_expressions.s", 10
#   li r1, -2147483648
#   .loc "ok_expressions.s", 11
#   li r1, 170
#   .loc "ok_expressions.s", 12
#   li r1, 1
#   .loc "ok_expressions.s", 13
#   li r1, 0
#   .loc "ok_expressions.s", 14
#   li r1, 1
#   .loc "ok_expressions.s", 15
#   li r1, 3
#   .loc "ok_expressions.s", 16
#   li r1, 1069547520
#   .loc "ok_expressions.s", 17
#   li r1, 3198855851
#   .loc "ok_expressions.s", 18
#   li r1, 4286578688
#   .loc "ok_expressions.s", 19
#   li r1, 1008981770
#   .loc "ok_expressions.s", 20
#   li r1, 1
#   .loc "ok_expressions.s", 21
#   addi r1, r1, 5
#   .loc "ok_expressions.s", 22
#   lw r1, 8(r2)
#   .loc "ok_expressions.s", 23
#   lw r1, 0(r2)
#   .loc "ok_expressions.s", 24
#   lw r1, 8
