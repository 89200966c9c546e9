"""The operators that tameopt knows: one row per ATen operator, by what kind of function it is."""
