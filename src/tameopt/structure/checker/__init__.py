"""The checker of structure certificates. It imports nothing of the code that makes them.

`check(data)` replays a certificate: it goes through the recorded operators with its own table (`_rows`) and its own
composition rules (`_rules`), and accepts when every claim about the result is no stronger than what it derives.
"""

from tameopt.structure.checker._check import check

__all__ = ["check"]
