"""Engines run an update rule over the parameters of a bucket: eager (the reference), cpu (numba), triton (GPU)."""
