.reg counter, r9
.tile
top: nop
  mv r1, r2
  la r1, 1 << 41
  not r1, r2
  neg r1, r2
  inc counter
  dec counter
  j top
  call top
  ret
  beqz r1, top
  bnez r1, top
  bltz r1, top
  bgez r1, top
  blez counter, top
  bgtz r1, top
  add zero, ra, counter
.reg counter, r10
  inc counter
.kernel k
.reg counter, s3
.reg acc, v7
.reg mask, p2
  smv counter, s1
  vadd.f32 acc, acc, v1 ?mask
  vret
# ---- expected ----
# .file "ok_pseudo.s"
# .loc none
#
# .tile
# top:
#   .loc "ok_pseudo.s", 3
#   addi r0, r0, 0
#   .loc "ok_pseudo.s", 4
#   addi r1, r2, 0
#   .loc "ok_pseudo.s", 5
#   li r1, 2199023255552
#   .loc "ok_pseudo.s", 6
#   xori r1, r2, -1
#   .loc "ok_pseudo.s", 7
#   sub r1, r0, r2
#   .loc "ok_pseudo.s", 8
#   addi r9, r9, 1
#   .loc "ok_pseudo.s", 9
#   addi r9, r9, -1
#   .loc "ok_pseudo.s", 10
#   jal r0, top
#   .loc "ok_pseudo.s", 11
#   jal r31, top
#   .loc "ok_pseudo.s", 12
#   jalr r0, 0(r31)
#   .loc "ok_pseudo.s", 13
#   beq r1, r0, top
#   .loc "ok_pseudo.s", 14
#   bne r1, r0, top
#   .loc "ok_pseudo.s", 15
#   blt r1, r0, top
#   .loc "ok_pseudo.s", 16
#   bge r1, r0, top
#   .loc "ok_pseudo.s", 17
#   bge r0, r9, top
#   .loc "ok_pseudo.s", 18
#   blt r0, r1, top
#   .loc "ok_pseudo.s", 19
#   add r0, r31, r9
#   .loc "ok_pseudo.s", 21
#   addi r10, r10, 1
#
# .kernel k
#   .loc "ok_pseudo.s", 26
#   saddi s3, s1, 0
#   .loc "ok_pseudo.s", 27
#   vadd.f32 v7, v7, v1 ?p2
#   .loc "ok_pseudo.s", 28
#   vret
