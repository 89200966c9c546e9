"""Deep linear networks with least squares: every local minimum is global, at any depth."""

from __future__ import annotations

from tameopt.evidence import Verdict
from tameopt.theorems._theorem import Hypothesis, Known, Theorem


def _qualify(known: Known) -> str:
    """Which saddles are strict: known for two layers and inputs of full rank, false in general from three on."""
    layers = known.estimate("network.deep_linear")
    if layers is None:
        return ""
    count = int(layers.value)
    full = any(one.verdict in (Verdict.MEASURED, Verdict.PROVED) for one in known.about("data.full_rank"))
    if count == 1:
        return "With one layer F is convex: every critical point is a global minimum."
    if count == 2 and full:
        return "With two layers and inputs of full rank every other critical point is a strict saddle."
    if count == 2:
        return "Whether its saddles are strict is not said where inputs of full rank were not shown."
    return (
        f"With {count} layers there can be saddles without negative curvature (all weights 0 may be one): strict "
        "saddles are avoided from random starts, these need not be."
    )


ENTRY = Theorem(
    name="deep-linear",
    title="Every local minimum of a deep linear network is global",
    source="T. Laurent, J. von Brecht (2018) for layers as wide as input or output; K. Kawaguchi (2016), M. Trager, "
    "K. Kohn, J. Bruna (2020) for bottlenecks; Z. Zhu et al. (2020) for two layers (theorem numbers not checked)",
    bibtex="""@inproceedings{LaurentVonBrecht2018,
  author = {Laurent, Thomas and von Brecht, James},
  title = {Deep Linear Networks with Arbitrary Loss: All Local Minima Are Global},
  booktitle = {International Conference on Machine Learning}, year = {2018},
}
@inproceedings{Kawaguchi2016,
  author = {Kawaguchi, Kenji}, title = {Deep Learning without Poor Local Minima},
  booktitle = {Advances in Neural Information Processing Systems}, volume = {29}, year = {2016},
}
@inproceedings{TragerKohnBruna2020,
  author = {Trager, Matthew and Kohn, Kathl{\\'e}n and Bruna, Joan},
  title = {Pure and Spurious Critical Points: a Geometric Study of Linear Networks},
  booktitle = {International Conference on Learning Representations}, year = {2020},
}
@article{ZhuSoudryEldarWakin2020,
  author = {Zhu, Zhihui and Soudry, Daniel and Eldar, Yonina C. and Wakin, Michael B.},
  title = {The Global Optimization Geometry of Shallow Linear Neural Networks},
  journal = {Journal of Mathematical Imaging and Vision}, volume = {62}, year = {2020},
}""",
    chapter="2 Convergence to local minima for Morse functions",
    hypotheses=(
        Hypothesis("network.deep_linear", "f(x) = W_N ... W_1 x, all W_l free, no biases"),
        Hypothesis("loss.least_squares", "F(theta) = norm(f(theta) - y)^2 up to a factor"),
        Hypothesis(
            "network.no_rank_obstruction",
            "min of the hidden widths >= min(inputs, outputs), or inputs that span their space",
        ),
    ),
    conclusion="Every local minimum of F is a global minimum.",
    applied="every local minimum of F is global.",
    remark=(
        "A statement about minima; whether saddles are strict depends on depth. From three layers on all weights 0 "
        "is a critical point whose Hessian is 0."
    ),
    qualify=_qualify,
)
