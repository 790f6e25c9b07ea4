# Labels belong to their section; numbered ones are found by direction; .L ones leave no symbol.
.tile
start: first:
  j loop
1: nop
loop: 1: beqz r1, 1f
  bnez r1, 1b
  beq r0, r0, .Lend
1: li r2, loop
  li r3, .Lend - start
  j start + 1
  beq r1, r2, -3
.Lend:
  halt
.cluster
loop: j loop
.kernel a
  loop s1, end
  vmov v1, v2
end: vret
.kernel b
  loop s1, end
  vmov v1, v2
  vmov v2, v3
end: vret
.tile           // the section goes on
  j start
after:
# ---- expected ----
# .file "ok_labels.s"
# .loc none
#
# .tile
# start:
# first:
#   .loc "ok_labels.s", 4
#   jal r0, loop
# .L1:
#   .loc "ok_labels.s", 5
#   addi r0, r0, 0
# loop:
#   .loc "ok_labels.s", 6
#   beq r1, r0, .L5
#   .loc "ok_labels.s", 7
#   bne r1, r0, loop
#   .loc "ok_labels.s", 8
#   beq r0, r0, .L9
# .L5:
#   .loc "ok_labels.s", 9
#   li r2, 2
#   .loc "ok_labels.s", 10
#   li r3, 9
#   .loc "ok_labels.s", 11
#   jal r0, .L1
#   .loc "ok_labels.s", 12
#   beq r1, r2, .L5
# .L9:
#   .loc "ok_labels.s", 14
#   halt
#   .loc "ok_labels.s", 27
#   jal r0, start
# after:
#
# .cluster
# loop:
#   .loc "ok_labels.s", 16
#   jal r0, loop
#
# .kernel a
#   .loc "ok_labels.s", 18
#   loop s1, end
#   .loc "ok_labels.s", 19
#   vmov v1, v2
# end:
#   .loc "ok_labels.s", 20
#   vret
#
# .kernel b
#   .loc "ok_labels.s", 22
#   loop s1, end
#   .loc "ok_labels.s", 23
#   vmov v1, v2
#   .loc "ok_labels.s", 24
#   vmov v2, v3
# end:
#   .loc "ok_labels.s", 25
#   vret
