"""Is what backprop returns at theta a Clarke subgradient? Proved by lemma, by margins, or only measured.

Backprop multiplies derivatives of operators, and at a kink it multiplies by whatever number PyTorch chose there.
The product is an element of a conservative field (Bolte & Pauwels 2021), but need not be a Clarke subgradient:
relu(x) - relu(-x) is x, and backprop returns 0 at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tameopt.evidence import Certificate, Verdict
from tameopt.nonsmooth import _lemma_checker, _margin_checker
from tameopt.nonsmooth._replay import packed
from tameopt.nonsmooth.graph import Graph, TraceError
from tameopt.nonsmooth.kinks import Census, census, form_of, graphs_of
from tameopt.nonsmooth.operators import KINKS
from tameopt.nonsmooth.traces import array_of, certificate_steps
from tameopt.problem import Problem

_LARGEST_CERTIFICATE = 4_000_000  # numbers held by a margin certificate: our choice, about 30 MB before packing
_LARGEST_EXACT = 2_000  # kink inputs and parameters up to which the exact set is computed: our choice, seconds
_MOST_ACTIVE = 24  # active kinks up to which it is: our choice
_PROOFS = {
    "smooth": "no nonsmooth operator reads theta",
    "lemma": "every kink has trainable parameters of its own",
    "margins": "every one of {:,} kink inputs is away from its kink by more than its rounding bound",
}


@dataclass(frozen=True)
class Backprop:
    """Whether backprop's output at theta is a Clarke subgradient of F.

    verdict: PROVED (with the certificate and how: "smooth", "lemma", "margins" or "membership"), MEASURED (no kink
        active in the floating-point forward pass, or "membership" in the exact set up to rounding), REFUTED (with
        `distance`, by "membership"), UNKNOWN (with the reason).
    gradient: (d,) what backprop returns. distance: from it to the Clarke subdifferential, where that is known;
    clarke: the `Subdifferential` then.
    """

    verdict: Verdict
    how: str
    reason: str
    gradient: torch.Tensor
    census: Census | None = None
    certificate: Certificate | None = None
    distance: float | None = None
    clarke: Any = None

    def __repr__(self) -> str:
        return f"Backprop({self.verdict}, {self.how or 'undecided'}: {self.reason})"


def as_problem(F: Problem | Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor | None) -> Problem:
    """A problem as it is, a plain function of x: (d,) as one.

    Raises ValueError when a plain function comes without a point, and for a point that is not finite.
    """
    point = F.theta if x is None and isinstance(F, Problem) else x
    if point is not None and not bool(torch.isfinite(point).all()):
        raise ValueError("x must be finite, it has NaN or infinite entries.")
    if isinstance(F, Problem):
        return F
    if x is None:
        raise ValueError("a plain function needs the point x: (d,) at which it is asked about, got none.")
    return Problem.from_function(F, x)


def lemma_certificate(graphs: Mapping[Any, Graph]) -> tuple[Certificate | None, str]:
    """The bias lemma's certificate for all forms of batch, or None and the reason."""
    data = {"forms": [certificate_steps(graph) for graph in graphs.values()]}
    for form in data["forms"]:
        reason = _lemma_checker.refusal(form)
        if reason:
            return None, reason
    certificate = Certificate("tameopt.nonsmooth._lemma_checker:check", data)
    if not certificate.replay():
        return None, "the biases come in different orders for batches of different forms"
    return certificate, ""


def margin_certificate(
    problem: Problem, theta: torch.Tensor, graphs: Mapping[Any, Graph]
) -> tuple[Certificate | None, str]:
    """The certificate that every kink is strictly away at theta over all data, or None and the reason."""
    size = theta.numel() + sum(tensor.numel() for graph in graphs.values() for tensor in graph.constants.values())
    parts: list[dict[str, Any]] = []
    parameters = problem.unflatten(theta)
    for batch in problem.batches if not problem.is_function else [()]:
        graph = graphs[form_of(batch)]
        leaves = torch.utils._pytree.tree_flatten(batch)[0]
        size += sum(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))
        if size > _LARGEST_CERTIFICATE:
            return None, f"a certificate would hold more than {_LARGEST_CERTIFICATE:,} numbers"
        arrays = {
            step.name: packed(array_of(step, parameters, leaves, graph))
            for step in graph
            if step.op in ("parameter", "input", "constant")
        }
        part = {**certificate_steps(graph), "arrays": arrays}
        reason = _margin_checker.refusal(part)
        if reason:
            return None, reason
        parts.append(part)
    return Certificate("tameopt.nonsmooth._margin_checker:check", {"parts": parts}), ""


def foreign_backward(problem: Problem, theta: torch.Tensor) -> str:
    """ "" when autograd's own formulas alone make the gradient, else the first foreign one (one forward pass).

    A custom autograd.Function or a tensor hook may return anything, and the list of operators does not show it.
    """
    from torch.autograd.function import BackwardCFunction

    batch = next(iter(problem.batches)) if not problem.is_function else ()
    leaves = {key: view.detach().requires_grad_() for key, view in problem.unflatten(theta).items()}
    with torch.enable_grad():
        value = problem.batch_output(leaves, batch).sum()
    stack, seen = [value.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, BackwardCFunction):
            return f"a custom backward, {type(node).__name__}"
        stack.extend(child for child, _ in node.next_functions)
    return ""


def replay_mismatch(problem: Problem, theta: torch.Tensor, graphs: Mapping[Any, Graph]) -> float:
    """How far the problem's own gradient is from that of the trace, relative; 0 up to rounding when they agree.

    They differ where a part of the model runs under no_grad, which a list of operators does not show. Cost: two
    gradients of the first batch, at theta and at a shifted point.
    """
    batch = next(iter(problem.batches)) if not problem.is_function else ()
    graph = graphs[form_of(batch)]
    shift = torch.cos(torch.arange(theta.numel(), dtype=theta.dtype, device=theta.device)) * 1e-3
    worst = 0.0
    for at in (theta, theta + shift * (1 + theta.abs())):
        gradients = []
        for run in (problem.batch_output, graph.run):
            leaves = {key: view.detach().requires_grad_() for key, view in problem.unflatten(at).items()}
            with torch.enable_grad():
                value = run(leaves, batch).sum()
                if not value.requires_grad:
                    gradients.append(torch.zeros_like(at))
                    continue
                parts = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
            gradients.append(torch.cat([part.reshape(-1) for part in parts]))
        size = float(torch.maximum(gradients[0].abs().max(), gradients[1].abs().max()))
        if size > 0:
            worst = max(worst, float((gradients[0] - gradients[1]).abs().max()) / size)
    return worst


def _unlisted(graphs: Mapping[Any, Graph]) -> str:
    """ "" when every step is smooth or a kink we know, so that backprop is the gradient off the kinks."""
    for graph in graphs.values():
        data = certificate_steps(graph)
        depends = {step.name for step in graph if step.depends}
        for step, written in zip(graph, data["steps"], strict=True):
            kink = KINKS.get(step.op)
            if not step.depends or (kink is not None and kink.kind != "jump"):
                continue
            reason = _lemma_checker.smooth_refusal(written, depends)
            if reason:
                return reason
    return ""


def check_backprop(
    F: Problem | Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor | None = None,
    *,
    found: Census | None = None,
    graphs: Mapping[Any, Graph] | None = None,
    margins_first: bool = False,
) -> Backprop:
    """Say whether backprop's output at x: (d,) is a Clarke subgradient of F.

    The proof by lemma is of the formula that backprop evaluates, in exact arithmetic, for every theta and batch;
    the proof by margins is of this point, rounding included; the proof by membership is of the very numbers that
    PyTorch returned at this point, and needs that no rounding moved them out of the set.

    found, graphs: a census and traces already made. margins_first: prefer the proof by margins, which says more
    about this point and nothing about others.

    Cost: a trace, two forward passes, two gradients.

    >>> check_backprop(lambda x: torch.relu(x).sum() - torch.relu(-x).sum(), torch.tensor([1.0])).verdict
    <Verdict.PROVED: 'PROVED'>
    """
    problem = as_problem(F, x)
    theta = problem.theta if x is None else x.to(problem.device, problem.dtype)
    gradient = problem.gradient(theta)
    if not bool(torch.isfinite(gradient).all()):
        return Backprop(Verdict.UNKNOWN, "", "backprop's output is not finite here", gradient)
    try:
        graphs = graphs_of(problem, theta) if graphs is None else graphs
        found = census(problem, theta, graphs) if found is None else found
    except TraceError as error:
        return Backprop(Verdict.UNKNOWN, "", str(error), gradient)
    foreign = foreign_backward(problem, theta)
    if foreign:
        return Backprop(Verdict.UNKNOWN, "", f"the model uses {foreign}, which may return anything", gradient, found)
    # 1e4 units in the last place: two orders of summation of the same gradient differ by far less
    mismatch = replay_mismatch(problem, theta, graphs)
    if mismatch > 1e4 * float(torch.finfo(problem.dtype).eps):
        reason = f"backprop differs from the derivative of the traced operators by {mismatch:.1e} (a detached part?)"
        return Backprop(Verdict.UNKNOWN, "", reason, gradient, found)
    lemma_reason = margin_reason = ""
    for way in ("margins", "lemma") if margins_first else ("lemma", "margins"):
        if way == "lemma":
            certificate, lemma_reason = lemma_certificate(graphs)
            how = "smooth" if found.smooth else "lemma"
        else:
            certificate, margin_reason = margin_certificate(problem, theta, graphs)
            how = way
        if certificate is not None:
            return Backprop(Verdict.PROVED, how, _PROOFS[how].format(found.entries), gradient, found, certificate)
    unlisted = _unlisted(graphs)
    if unlisted:
        return Backprop(Verdict.UNKNOWN, "", unlisted, gradient, found)
    if found.active == 0 and not found.unread:
        reason = f"no kink is active in the floating-point forward pass; no proof, because {margin_reason}"
        return Backprop(Verdict.MEASURED, "", reason, gradient, found)
    return _by_membership(problem, theta, gradient, found, graphs, lemma_reason)


def _by_membership(
    problem: Problem,
    theta: torch.Tensor,
    gradient: torch.Tensor,
    found: Census,
    graphs: Mapping[Any, Graph],
    lemma_reason: str,
) -> Backprop:
    """With active kinks and no lemma: compare backprop's output with the exact Clarke set, where it is in reach."""
    from tameopt.nonsmooth.fan import TooManyKinks
    from tameopt.nonsmooth.germ import GermError
    from tameopt.nonsmooth.local_form import local_form_of_problem
    from tameopt.nonsmooth.membership import membership_certificate
    from tameopt.nonsmooth.subdifferential import clarke_of_local

    open_reason = f"{found.active:,} kinks are active and {lemma_reason}"
    numbers = found.entries + theta.numel()
    if numbers > _LARGEST_EXACT or found.active > _MOST_ACTIVE:
        return Backprop(Verdict.UNKNOWN, "", open_reason, gradient, found)
    try:
        local = local_form_of_problem(problem, theta, graphs)
        clarke = clarke_of_local(local)
    except (GermError, TooManyKinks) as error:
        return Backprop(Verdict.UNKNOWN, "", f"{open_reason}; {error}", gradient, found)
    certificate, open_proof = membership_certificate(problem, theta, graphs, local, gradient)
    if certificate is not None:
        reason = f"it is a convex combination of limits of gradients at {clarke.kinks} active kinks, exactly"
        return Backprop(Verdict.PROVED, "membership", reason, gradient, found, certificate, 0.0, clarke)
    distance = clarke.distance(gradient)
    # backprop's own rounding, and that of transcendental functions in the exact calculus
    tolerance = 1e4 * float(torch.finfo(problem.dtype).eps) * max(1.0, float(gradient.norm()))
    if distance <= tolerance:
        reason = (
            f"it is in the Clarke subdifferential of {clarke.kinks} active kinks, within {tolerance:.0e}; no proof, "
            f"because {open_proof}"
        )
        return Backprop(Verdict.MEASURED, "membership", reason, gradient, found, distance=distance, clarke=clarke)
    if clarke.status != "exact":
        return Backprop(Verdict.UNKNOWN, "", f"{open_reason}; {clarke.reason}", gradient, found)
    reason = f"it is {distance:.3g} away from the Clarke subdifferential of {clarke.kinks} active kinks"
    return Backprop(Verdict.REFUTED, "membership", reason, gradient, found, distance=distance, clarke=clarke)
