"""
An audit in Python
==================

``tame.audit`` trains (or reads a run), analyses and judges; every picture of the report can be drawn on your own
axes.
"""

import tempfile

from matplotlib import pyplot as plt

import tameopt as tame

with tempfile.TemporaryDirectory() as folder:
    diagnosis = tame.audit("quadratic", steps=150, lr=0.05, out=f"{folder}/run")
print(diagnosis.verdict)
for row in diagnosis.questions:
    print(f"{row.question:32} {row.answer}")

# %%
# The pictures are data until they are drawn.

chosen = diagnosis.pictures[:4]
figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
for ax, picture in zip(axes.flat, chosen, strict=False):
    tame.report.draw(picture, ax=ax)
