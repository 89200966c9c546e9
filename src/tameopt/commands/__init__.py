"""The verbs of the `tameopt` command: a catalogue folder, one public file a verb with `ENTRY = Command(...)`.

A verb's file imports torch, matplotlib and the analysis rooms inside its function, so that `tameopt --help` and
shell completion answer at once. `_common.py` has what verbs share.
"""
