  li r2, 2
