  li r1, 1
.include "deeper.s"
