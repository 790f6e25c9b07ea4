.tile
.include "include/body.s"
.include "include/body.s"
  halt
# ---- expected ----
# .file "include/body.s"
# .file "include/deeper.s"
# .file "ok_include.s"
# .loc none
#
# .tile
#   .loc "include/body.s", 1
#   li r1, 1
#   .loc "include/deeper.s", 1
#   li r2, 2
#   .loc "include/body.s", 1
#   li r1, 1
#   .loc "include/deeper.s", 1
#   li r2, 2
#   .loc "ok_include.s", 4
#   halt
