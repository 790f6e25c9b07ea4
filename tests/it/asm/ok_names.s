# Quoted names may be anything; what reads as a register or a number is quoted in the disassembly.
.tensor "layer 0/weight", hbm, f32, [2], payload
.tensor model.norm, hbm, f32, [2], payload
.note "split k", "4"
.tile
"r5":
  j "r5"
"two words":
  j "two words"
".Lkept":
  vrun "r1", r8, 1
  la r1, "layer 0/weight"
  la r1, model.norm
.kernel "r1"
  vret
# ---- expected ----
# .file "ok_names.s"
# .loc none
# .note "split k", "4"
# .tensor "layer 0/weight", hbm, f32, [2], payload, none, at 0x0
# .tensor model.norm, hbm, f32, [2], payload, none, at 0x100
#
# .tile
# "r5":
#   .loc "ok_names.s", 7
#   jal r0, "r5"
# "two words":
#   .loc "ok_names.s", 9
#   jal r0, "two words"
# ".Lkept":
#   .loc "ok_names.s", 11
#   vrun "r1", r8, 1
#   .loc "ok_names.s", 12
#   li r1, 0
#   .loc "ok_names.s", 13
#   li r1, 256
#
# .kernel "r1"
#   .loc "ok_names.s", 15
#   vret
