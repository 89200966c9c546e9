"""What the audit says of deep linear networks: is it one, are its inputs of full rank, what is its least loss."""

from __future__ import annotations

import time

from tameopt.analysis import Analysis, Answer, Context
from tameopt.evidence import Cost, Finding, Scope, Verdict, measured, refuted, unknown
from tameopt.kl.least_squares import least_squares
from tameopt.kl.linear_data import LinearData, linear_data, size_in_words
from tameopt.structure.linear_chain import LinearChain, linear_chain

CLAIMS = ("network.deep_linear", "data.full_rank", "network.no_rank_obstruction")


def _analyse(context: Context) -> Answer:
    begun = time.perf_counter()
    chain = linear_chain(context.problem, context.seed)
    network = _network(chain, context.seed)
    if not chain.layers:
        missing = f"a network that is a product of its weight matrices: {chain.reason}"
        others = [
            unknown(claim, "This is asked of deep linear networks only.", missing=missing) for claim in CLAIMS[1:]
        ]
        return Answer((network, *others), cost=Cost(seconds=time.perf_counter() - begun))
    data = linear_data(context.problem, chain)
    rank = _rank(data)
    facts = {"widths": list(chain.widths), "least_squares": data.least}
    squares = least_squares(context.problem, context.seed)
    if squares.holds:
        facts["F_least"] = squares.scale * data.least
        facts["F"] = float(context.problem.value(context.theta))
    return Answer(
        (network, rank, _obstruction(chain, data, rank)),
        facts={"kl.linear": facts},
        cost=Cost(seconds=time.perf_counter() - begun),
    )


def _network(chain: LinearChain, seed: int) -> Finding:
    claim = "network.deep_linear"
    if chain.layers:
        return measured(
            claim,
            f"The network is a product of {size_in_words(chain)}. Each is used once, and there is nothing else.",
            float(len(chain.layers)),
            method="trace of the outputs in theta; the product compared with the outputs at a random theta",
            error_kind="rounding of the comparison; the count is exact",
            sample_size=1,
            seed=seed,
            scope=Scope.GLOBAL,
        )
    what = "The network is not a product of weight matrices"
    if chain.broken is not None:
        name, error = chain.broken
        return refuted(
            claim,
            f"{what}: the outputs are not linear in {name} (with it multiplied by -2 they differ from -2 times "
            f"themselves by {100 * error:.2g}%).",
            {"weight": name, "relative_error": error},
            method=f"outputs at a random theta, seed {seed}, and with one weight multiplied by -2",
            scope=Scope.GLOBAL,
        )
    return unknown(claim, "The network was not recognised as a product of weight matrices.", missing=chain.reason)


def _rank(data: LinearData) -> Finding:
    claim = "data.full_rank"
    how = f"singular values of the {len(data.singular_values)} x {data.dimension} inputs in float64"
    ratio = f"the smallest singular value is {data.ratio:.2g} of the largest"
    if data.full_rank:
        return measured(
            claim, f"The inputs span their space: {ratio}.", data.ratio, method=how, error_kind="rounding",
            scope=Scope.GLOBAL,
        )  # fmt: skip
    if data.full_rank is False:
        few = len(data.singular_values) < data.dimension
        why = f"{len(data.singular_values)} samples in {data.dimension} dimensions" if few else ratio
        return refuted(
            claim, f"The inputs do not span their space: {why}.", {"ratio": data.ratio}, method=how,
            scope=Scope.GLOBAL,
        )  # fmt: skip
    return unknown(
        claim,
        f"Whether the inputs span their space is open: {ratio}, between rounding and a clear rank.",
        missing="inputs whose small directions are scaled up, or left out",
        method=how,
        scope=Scope.GLOBAL,
    )


def _obstruction(chain: LinearChain, data: LinearData, rank: Finding) -> Finding:
    claim = "network.no_rank_obstruction"
    if chain.wide:
        return measured(
            claim,
            "No hidden layer is narrower than both input and output: every matrix is such a product.",
            float(chain.bottleneck),
            method="widths",
            error_kind="exact",
            scope=Scope.GLOBAL,
        )
    words = f"a hidden layer of {chain.bottleneck} bounds the rank, and the inputs "
    if rank.verdict is Verdict.MEASURED:
        return measured(
            claim,
            f"Although {words}span their space, so that least squares over such matrices has no bad local minimum.",
            float(chain.bottleneck),
            method="widths; " + rank.evidence.method,
            error_kind="rounding of the rank",
            scope=Scope.GLOBAL,
            source="Eckart and Young 1936 on whitened inputs",
        )
    return unknown(
        claim,
        f"Here {words}were not shown to span their space: no theorem on file covers that.",
        missing=f"a hidden layer of {min(chain.widths[0], chain.widths[-1])} at least, or inputs of full rank",
        scope=Scope.GLOBAL,
    )


def _skip(context: Context) -> str:
    problem = context.problem
    if problem.is_function or problem.forward is not None:
        return "deep linear networks are recognised from model, loss(output, target) and (input, target) batches"
    if not problem.batches.indexable:
        return "the samples cannot be picked by number"
    return ""


ANALYSIS = Analysis(
    "kl.linear",
    "Is it a deep linear network, whose local minima are all global?",
    CLAIMS,
    lambda context: Cost(gradients=2.0, seconds=0.1),
    _analyse,
    _skip,
)
