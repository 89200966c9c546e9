"""Homogeneous networks that separate their data: the gradient flow drives a classification loss to 0."""

from __future__ import annotations

from tameopt.evidence import Scope
from tameopt.theorems._theorem import Hypothesis, Theorem

ENTRY = Theorem(
    name="homogeneous-margin",
    title="A homogeneous network with total loss below log 2 reaches zero loss",
    source="K. Lyu, J. Li (2020); Z. Ji, M. Telgarsky (2020), by the KL inequality (theorem numbers not checked)",
    bibtex="""@inproceedings{LyuLi2020,
  author = {Lyu, Kaifeng and Li, Jian},
  title = {Gradient Descent Maximizes the Margin of Homogeneous Neural Networks},
  booktitle = {International Conference on Learning Representations}, year = {2020},
}
@inproceedings{JiTelgarsky2020,
  author = {Ji, Ziwei and Telgarsky, Matus},
  title = {Directional Convergence and Alignment in Deep Learning},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {33}, year = {2020},
}""",
    chapter="4 Convergence to critical points for tame functions",
    hypotheses=(
        Hypothesis(
            "trap.margin",
            "the network is positively homogeneous in theta, the loss cross-entropy or logistic, and n F < log 2",
            Scope.POINT,
        ),
    ),
    conclusion=(
        "From this point the gradient flow drives F to 0; theta grows without bound, and the limits of its direction "
        "are KKT points of the margin problem."
    ),
    applied=(
        "the gradient flow from the last iterate drives F to 0 while theta grows without bound; a run with "
        "small steps "
        "shadows that flow, which this theorem does not prove."
    ),
    remark="A statement about the flow. For gradient descent Lyu and Li ask for smoothness and small steps besides.",
)
