.include "include/missing.s"
.include "include/self.s"
.include missing
.tile
.include "include/deeper.s" again
  halt
# ---- expected ----
# error: cannot read `include/missing.s`: entity not found
#  --> err_include.s:1:10
#   |
# 1 | .include "include/missing.s"
#   |          ^^^^^^^^^^^^^^^^^^^
#
# error: expected a string, found `missing`
#  --> err_include.s:3:10
#   |
# 3 | .include missing
#   |          ^^^^^^^
#   |
#   = help: syntax: .include "FILE"
#
# error: expected the end of the line, found `again`
#  --> err_include.s:5:29
#   |
# 5 | .include "include/deeper.s" again
#   |                             ^^^^^
#   |
#   = help: syntax: .include "FILE"
#
# error: `include/self.s` includes itself
#  --> include/self.s:1:10
#   |
# 1 | .include "self.s"
#   |          ^^^^^^^^
#
