"""How what is known about the inputs of an operator gives what is known about its outputs."""
