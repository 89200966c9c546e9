"""The vocabulary in which analyses and theorems meet.

An analysis yields findings about claims; a theorem's hypotheses and conclusion are claims. Neither knows the
other. A claim is a name, the sentence it stands for in the lecture's notation, and the unit of its number when
it has one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A statement that can be proved, measured, refuted or left unknown.

    name: dotted, stable; statement: the sentence; value: what the finding's estimate is, or "".
    """

    name: str
    statement: str
    value: str = ""


_CLAIMS = (
    # structure of F (global, from the trace of the model)
    Claim("F.tame", "F is definable in an o-minimal structure"),
    Claim("F.semialgebraic", "F is semialgebraic"),
    Claim("F.polynomial_degree", "F is (piecewise) polynomial of this degree", "degree"),
    Claim("F.continuous", "F is continuous"),
    Claim("F.locally_lipschitz", "F is locally Lipschitz"),
    Claim("F.C1", "F is continuously differentiable"),
    Claim("F.C2", "F is twice continuously differentiable"),
    Claim("F.analytic", "F is real analytic"),
    Claim("F.bounded_below", "F is bounded below", "lower bound on F"),
    Claim("F.convex", "F is convex"),
    Claim("F.path_differentiable", "F obeys the chain rule along Lipschitz curves"),
    Claim("F.homogeneous", "the network is positively homogeneous in theta", "degree"),
    Claim("F.kl", "F has the Kurdyka-Lojasiewicz property"),
    Claim("F.critical_values_finite", "F has finitely many critical values"),
    Claim("F.compact_sublevel", "the sublevel set {F <= F(theta_0)} is compact"),
    Claim("F.autodiff", "autodiff computes elements of a conservative gradient of F"),
    # smoothness and steps
    Claim("gradient.lipschitz", "the gradient of F is L-Lipschitz", "L"),
    Claim("descent.inequality", "F(theta_{k+1}) <= F + <g, d> + L/2 norm(d)^2, d = theta_{k+1} - theta_k", "L"),
    Claim("step.below_1_over_L", "the step is below 1/L", "alpha L"),
    Claim("step.stable", "the step is below the stability limit of the method", "alpha L / limit"),
    Claim("step.below_1_over_block_L", "each block's step is below 1/L, L that of its descent inequality", "alpha L"),
    Claim("step.constant", "the step is constant", "alpha"),
    Claim("step.positive", "every step is positive"),
    Claim("step.sum_diverges", "the steps sum to infinity"),
    Claim("step.square_summable", "the squares of the steps have a finite sum"),
    Claim("step.subgaussian", "sum exp(-c/alpha_k) is finite for every c > 0"),
    Claim("step.vanishes", "the steps tend to 0"),
    Claim("step.moment_summable", "sum alpha_k^(1+q/2) is finite, q the order of the bounded noise moments", "q"),
    Claim("gradient_map.diffeomorphism", "theta -> theta - alpha grad F(theta) is a diffeomorphism"),
    # the run
    Claim("method.gradient_descent", "theta_{k+1} = theta_k - alpha_k grad F(theta_k), full batch"),
    Claim("method.stochastic_gradient", "theta_{k+1} = theta_k - alpha_k (grad F(theta_k) + noise)"),
    Claim("method.proximal_gradient", "block by block, theta_i <- prox of alpha f_i at theta_i - alpha grad_i F"),
    Claim("penalty.tame", "the penalties f_i are closed, bounded below and definable, with F, in one structure"),
    Claim("init.absolutely_continuous", "theta_0 is drawn from a law with a density"),
    Claim("iterates.bounded", "the iterates stay bounded", "largest norm"),
    Claim("iterates.finite_length", "the trajectory has finite length", "length so far"),
    Claim("iterates.converge", "the iterates converge", "distance moved in the last tenth of the run"),
    Claim("values.converge", "F(theta_k) converges", "trend of F a step"),
    Claim("values.descend", "F(theta_k) decreases", "share of recorded steps that decrease"),
    Claim("run.finite", "every recorded number is finite"),
    Claim("run.diverged", "the run diverged", "step at which it did"),
    Claim("run.noise_floor", "F has stopped falling at the floor set by the step and the noise", "floor"),
    # the point reached
    Claim("point.critical", "the last iterate is a critical point", "norm of the gradient"),
    Claim("point.clarke_critical", "0 is in the Clarke subdifferential at the last iterate", "distance"),
    Claim("point.lambda_min", "the smallest Hessian eigenvalue at the last iterate", "lambda_min"),
    Claim("point.lambda_max", "the largest Hessian eigenvalue at the last iterate", "lambda_max"),
    Claim("point.strict_saddle", "the last iterate is a strict saddle", "lambda_min"),
    Claim("point.second_order", "the last iterate is a second-order critical point", "lambda_min"),
    Claim("point.hyperbolic", "the Hessian at the critical point has no zero eigenvalue"),
    Claim("point.index", "the number of negative Hessian eigenvalues", "index"),
    Claim("point.kinks", "samples and units that sit exactly on a kink at the last iterate", "count"),
    Claim("point.backprop_clarke", "backprop's output at the last iterate is a Clarke subgradient"),
    # KL
    Claim("kl.exponent", "norm(grad F) >= c (F - F*)^theta near the limit, as the run sees it", "theta"),
    Claim("kl.pl_constant", "norm(grad F)^2 >= 2 mu (F - F*) on the path", "mu"),
    Claim("rate.linear", "F(theta_k) - F* decreases linearly", "factor a step"),
    Claim("rate.sublinear", "F(theta_k) - F* decreases like a power of 1/k", "power"),
    Claim("rate.steps_to_target", "steps to reach a target value", "steps"),
    Claim("ntk.lambda_min", "the smallest eigenvalue of the tangent kernel J J^T", "lambda_min"),
    Claim("trap.holds", "the over-parameterised trap: gradient descent reaches zero training loss", "h"),
    Claim(
        "trap.flow", "the gradient flow of a ReLU network reaches zero training loss", "norm(u) / certain decrease"
    ),
    Claim(
        "trap.margin",
        "a homogeneous network separates the data: gradient flow drives the loss to 0",
        "n F / log 2, below 1",
    ),
    Claim("loss.least_squares", "the loss is least squares"),
    Claim("network.deep_linear", "the network is a product of weight matrices, each used once", "layers"),
    Claim("data.full_rank", "the inputs span their space", "smallest / largest singular value"),
    Claim(
        "network.no_rank_obstruction",
        "no hidden layer is narrower than input and output, or the inputs span their space",
        "largest rank",
    ),
    # noise
    Claim("noise.unbiased", "the noise is a martingale difference"),
    Claim("noise.bounded_variance", "the conditional variance of the noise is bounded", "trace of Sigma"),
    Claim("noise.scale", "the gradient noise scale tr Sigma / norm(grad F)^2", "samples"),
    Claim("ode.pseudo_trajectory", "the interpolated process follows the gradient flow", "D_T"),
    Claim("values.limit_set", "the limit set of F(theta_k) is a single critical value", "width"),
    # nonsmooth
    Claim("chain_rule.along_run", "the chain rule holds along the run", "largest violation"),
    Claim("goldstein.stationary", "the last iterate is (delta, eps)-Goldstein stationary", "eps"),
    # symptoms of a run, read from its record and from the network's outputs
    Claim("run.chance_level", "F is at the entropy of the labels: the outputs ignore the inputs", "F / entropy"),
    Claim("units.dead", "units whose activation is 0 for every sample", "largest share of a layer"),
    Claim("run.oscillates", "F swings instead of falling", "period in steps"),
    Claim("run.spikes", "the loss jumps up and comes back", "number of spikes"),
    Claim("run.rises", "F rises again after its least value and stays up", "F at the end / least F"),
    Claim("run.epoch_steps", "the loss falls in steps aligned with the epochs", "share of the fall at their ends"),
    Claim("run.resume_jump", "the loss jumps where the run was resumed", "jump in standard deviations"),
    Claim("run.plateau", "F hardly moves although the point is not critical", "relative change of F"),
    Claim("run.straddles_kink", "the last iterates jump to and fro over a kink", "least norm in the gradients' hull"),
    Claim("run.first_non_finite", "where the first number that is not finite appeared", "step"),
    Claim(
        "step.too_small", "the step is far below what curvature and noise allow, and F is far from settled", "alpha L"
    ),
)

CLAIMS: dict[str, Claim] = {claim.name: claim for claim in _CLAIMS}


def claim_named(name: str) -> Claim:
    """The claim of that name.

    Raises ValueError with the nearest known name.

    >>> claim_named("F.tame").statement
    'F is definable in an o-minimal structure'
    """
    try:
        return CLAIMS[name]
    except KeyError:
        near = difflib.get_close_matches(name, CLAIMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"a claim must be one of claims.CLAIMS, got {name!r}{hint}") from None
