"""Proofs about critical points: what is proved is true, and a certificate that was tampered with is refused."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.curvature import jets, point_checker
from tameopt.curvature.classification import classify
from tameopt.curvature.critical import find_critical_points
from tameopt.curvature.jets import Jets, arb_unary
from tameopt.curvature.rigorous import NoProof, PointProof, critical_points_in_box, prove_point
from tameopt.curvature.tape import NotOnTapeError, tape_of
from tameopt.evidence import Certificate, Verdict
from tameopt.problem import Problem

F64 = torch.float64


def problem_of(function, theta):
    return Problem.from_function(function, torch.as_tensor(theta, dtype=F64))


def lee(t):
    return t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2


def himmelblau(t):
    return (t[0] ** 2 + t[1] - 11) ** 2 + (t[0] + t[1] ** 2 - 7) ** 2


@pytest.mark.parametrize(
    "theta, kind, index",
    [
        ([0.0, 0.0], "strict saddle", 1),
        ([1e-9, 1 - 1e-9], "minimum", 0),
        ([1e-5, -1.0], "minimum", 0),
        ([0.3, 0.2], "not critical", None),
    ],
)
def test_the_double_well_is_proved(theta, kind, index):
    proof = prove_point(problem_of(lee, theta))
    assert isinstance(proof, PointProof)
    assert (proof.kind, proof.index) == (kind, index) and proof.certificate.replay()
    assert proof.distance < 1e-4


def test_classify_takes_the_proof_over():
    point = tame.curvature.classify(problem_of(lee, [0.0, 0.0]), rigorous=True)
    assert point.verdict is Verdict.PROVED and point.index_interval == (1, 1)
    off = tame.curvature.classify(problem_of(lee, [1e-4, 0.0]), rigorous=True)
    assert off.kind == "not critical" and off.verdict is Verdict.MEASURED and "strict saddle" in off.reason


def test_irrational_critical_points_are_isolated_and_certified():
    proof = prove_point(problem_of(lambda t: t[0] ** 4 - 4 * t[0] ** 2 + torch.exp(t[1]) - t[1], [math.sqrt(2), 0.0]))
    assert proof.kind == "minimum" and 0 < proof.radius < 1e-8
    assert abs(float(proof.center[0]) - math.sqrt(2)) <= proof.radius


@pytest.mark.parametrize(
    "function, index, nullity",
    [
        (lambda t: t[0] ** 2 / 2 + t[1] ** 3 / 3, 0, 1),
        (lambda t: t[0] ** 2 - t[1] ** 4, 0, 1),
        (lambda t: (t[0] * t[1]) ** 2 - t[0] ** 2, 1, 1),
        (lambda t: torch.cos(t[0]) + torch.tanh(t[1]) ** 2, 1, 0),
        (lambda t: (t[0] * t[1] * (t[0] + t[1]) - 1) ** 2 / 2, 0, 2),
    ],
)
def test_degenerate_points_are_proved_in_exact_arithmetic(function, index, nullity):
    proof = prove_point(problem_of(function, [0.0, 0.0]))
    assert (proof.index, proof.nullity, proof.radius) == (index, nullity, 0.0)


def test_linear_nets_with_rational_factors_are_proved():
    """Y = diag(4, 3, 2, 1), 3 hidden units, the singular values 4 and 3 kept: index 2, nullity 8."""
    Y = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=F64))
    W2, W1 = torch.zeros(4, 3, dtype=F64), torch.zeros(3, 4, dtype=F64)
    W2[0, 0], W1[0, 0], W2[1, 1], W1[1, 1] = 4.0, 1.0, 1.0, 3.0
    theta = torch.cat([W2.reshape(-1), W1.reshape(-1)])
    problem = Problem.from_function(lambda t: (t[:12].view(4, 3) @ t[12:].view(3, 4) - Y).square().sum() / 2, theta)
    proof = prove_point(problem)
    assert (proof.index, proof.nullity, proof.kind) == (2, 8, "strict saddle")


def test_a_tie_of_relu_is_not_decided():
    kink = prove_point(problem_of(lambda t: torch.relu(t).sum() ** 2, [0.0, -2.0]))
    assert isinstance(kink, NoProof)
    flat = prove_point(problem_of(lambda t: torch.relu(t).sum() ** 2, [-1.0, -2.0]))
    assert (flat.index, flat.nullity) == (0, 2)


def test_a_nearly_singular_hessian_is_not_called_regular():
    """x^4 + 1e-18 x^2 at 0 has a Hessian of 2e-18: regular, but no floating radius can be certified around it."""
    proof = prove_point(problem_of(lambda t: t[0] ** 4 + 1e-18 * t[0] ** 2, [1e-4]))
    assert isinstance(proof, NoProof) or proof.kind != "degenerate"


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda t: torch.lgamma(t + 3).sum(), "lgamma"),
        (lambda t: t.sum() if t[0] > -1 else t[1], "branch"),
        (lambda t: (t + 3).pow(0.3).sum(), "power 0.3"),
    ],
)
def test_what_is_not_on_a_tape_is_named(function, words):
    with pytest.raises(NotOnTapeError, match=words):
        tape_of(problem_of(function, [0.0, 0.0]))
    assert words in prove_point(problem_of(function, [0.0, 0.0])).reason
    assert "proofs are for d up to" in prove_point(problem_of(lambda t: t.sum(), [0.0] * 40)).reason


NETWORKS = [
    (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)), nn.functional.mse_loss, False),
    (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)), nn.functional.cross_entropy, True),
    (nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 3)), nn.CrossEntropyLoss(reduction="none"), True),
    (nn.Sequential(nn.Linear(2, 2), nn.SiLU(), nn.Linear(2, 1)), nn.functional.mse_loss, False),
]


@pytest.mark.parametrize("model, loss, classes", NETWORKS)
def test_the_tape_is_the_network(model, loss, classes):
    """Value, gradient and Hessian of the tape in intervals hold those of autodiff, to rounding."""
    import flint

    generator = torch.Generator().manual_seed(0)
    X = torch.randn(4, 2, generator=generator, dtype=F64)
    y = torch.tensor([0, 1, 2, 1]) if classes else torch.randn(4, 1, generator=generator, dtype=F64)
    problem = Problem(model.double(), loss, (X, y))
    tape = tape_of(problem)
    engine = Jets(lambda text: flint.arb(float.fromhex(text)), arb_unary)
    value, gradient, hessian = engine.run(tape, [flint.arb(float(x)) for x in problem.theta])
    assert float(value.mid()) == pytest.approx(float(problem.value()), rel=1e-12)
    dense = problem.hessian().dense()
    for i in range(problem.dim):
        assert float(gradient.get(i, flint.arb(0)).mid()) == pytest.approx(float(problem.gradient()[i]), abs=1e-12)
        for j in range(i, problem.dim):
            assert float(hessian.get((i, j), flint.arb(0)).mid()) == pytest.approx(float(dense[i, j]), abs=1e-12)


def test_a_small_network_off_its_critical_points_is_proved_not_critical():
    problem = Problem(
        nn.Linear(2, 1, dtype=F64), nn.functional.mse_loss, (torch.ones(3, 2).double(), torch.zeros(3, 1).double())
    )
    proof = prove_point(problem)
    assert proof.kind == "not critical" and proof.certificate.replay()


def tampered(certificate, **changes):
    data = {**copy.deepcopy(dict(certificate.data)), **changes}
    return Certificate(certificate.checker, data)


def test_tampered_proofs_are_refused():
    exact = prove_point(problem_of(lee, [0.0, 0.0])).certificate
    for changes in ({"index": 0}, {"nullity": 1}, {"center": [(1e-300).hex(), (0.5).hex()]}):
        assert not tampered(exact, **changes).replay()
    isolated = prove_point(
        problem_of(lambda t: t[0] ** 4 - 4 * t[0] ** 2 + t[1] ** 2, [math.sqrt(2), 0.1e-9])
    ).certificate
    assert isolated.checker.endswith("check_nondegenerate")
    for changes in ({"index": 1}, {"radius": (3.0).hex()}, {"center": [(1.4).hex(), (0.0).hex()]}):
        assert not tampered(isolated, **changes).replay()
    away = prove_point(problem_of(lee, [0.3, 0.2])).certificate
    assert not tampered(away, center=[(0.0).hex(), (0.0).hex()]).replay()
    with pytest.raises(ValueError, match="radius > 0"):
        tampered(isolated, radius=(0.0).hex()).replay()
    with pytest.raises(ValueError, match="earlier entries"):
        tampered(exact, tape=[["var", 0], ["add", 0, 5]]).replay()


def test_every_critical_point_of_himmelblau_with_proof():
    found = critical_points_in_box(problem_of(himmelblau, [0.0, 0.0]), [-5, -5], [5, 5])
    assert found.verdict is Verdict.PROVED and found.certificate.replay()
    assert sorted(found.kinds) == ["maximum"] + ["minimum"] * 4 + ["strict saddle"] * 4
    top = found.kinds.index("maximum")
    assert found.values[top] == pytest.approx(181.616522, abs=1e-6)
    assert found.points[top].tolist() == pytest.approx([-0.2708445907, -0.9230385565], abs=1e-9)
    assert not tampered(found.certificate, count=8).replay()
    shrunk = tampered(found.certificate, lower=[(-6.0).hex(), (-5.0).hex()])
    assert not shrunk.replay()


def test_a_curved_valley_is_searched_in_its_own_directions():
    rosenbrock = tame.problems.load("rosenbrock")
    found = critical_points_in_box(rosenbrock, [0, 0], [1.6, 1.7], max_cells=2000)
    assert found.verdict is Verdict.PROVED and found.kinds == ("minimum",)
    assert found.certificate.replay()


def test_no_matrix_proves_a_critical_point_away():
    """A leaf without critical points may come with any matrix: none may hide the point at (1, 1)."""
    tape = tape_of(tame.problems.load("rosenbrock"))
    generator = torch.Generator().manual_seed(0)
    for size in (0.0, 1e-9, 1.0, 1e9):
        for _ in range(5):
            Y = size * torch.randn(2, 2, generator=generator, dtype=F64)
            leaf = ["none", [[float(number).hex() for number in row] for row in Y]]
            assert not point_checker.leaf_holds(tape, [0.9, 1.0], [1.0, 1.1], leaf)
            if size:
                assert point_checker.leaf_holds(tape, [0.1, 1.0], [0.1001, 1.0001], leaf)
    with pytest.raises(ValueError, match="preconditioner of a cell must be 2 x 2"):
        point_checker.leaf_holds(tape, [0.9, 1.0], [1.0, 1.1], ["none", [["0x1p+0"]]])


def test_a_critical_point_beside_a_face_is_counted_once():
    """A cell that ends one unit in the last place before the critical point must not claim it as its own.

    Balls hold a little more than the interval they are made from; a check on balls would count the point twice.
    """
    problem = problem_of(lambda t: (t[0] - 1) ** 2, [0.0])
    tape = tape_of(problem)
    leaf = ["one", [(1.0).hex()], (0.75).hex(), [[(0.5).hex()]]]
    just_below, just_above = math.nextafter(1.0, 0.0), math.nextafter(1.0, 2.0)
    assert point_checker.leaf_holds(tape, [0.5], [1.5], leaf)
    assert not point_checker.leaf_holds(tape, [0.5], [just_below], leaf)
    assert not point_checker.leaf_holds(tape, [0.5], [1.0], leaf)
    assert not point_checker.leaf_holds(tape, [just_above], [1.5], leaf)
    # and a ball must hold its cell in exact numbers
    assert not point_checker.leaf_holds(tape, [0.5], [1.75 + 2**-40], leaf)
    data = {"tape": tape, "lower": [(0.5).hex()], "upper": [(1.5).hex()], "count": 2}
    data["tree"] = ["split", 0, just_below.hex(), leaf, leaf]
    assert not Certificate("tameopt.curvature.point_checker:check_box", data).replay()


def test_a_degenerate_point_in_the_box_is_never_proved_away():
    found = critical_points_in_box(
        problem_of(lambda t: t[0] ** 2 + t[1] ** 4, [0.0, 0.0]), [-1, -1], [1, 1], max_cells=60
    )
    assert found.verdict is Verdict.UNKNOWN and "60 cells were not enough" in found.reason


def test_a_box_without_critical_points_is_proved_empty():
    found = critical_points_in_box(problem_of(lambda t: torch.exp(t[0]) + t[1] ** 2, [0.0, 0.0]), [-2, -2], [2, 2])
    assert found.verdict is Verdict.PROVED and len(found.kinds) == 0
    with pytest.raises(ValueError, match="a box needs 2 finite numbers lower < upper"):
        critical_points_in_box(problem_of(lee, [0.0, 0.0]), [0, 0], [0, 1])


def test_the_checker_shares_no_code_with_the_producer():
    lines = [line for module in (jets, point_checker) for line in Path(module.__file__).read_text().splitlines()]
    imports = [line for line in lines if line.lstrip().startswith(("import tameopt", "from tameopt"))]
    assert imports == [
        "from tameopt.curvature.jets import Jets, Undecided, arb_unary, rational_unary",
        "from tameopt.extras import require",
    ]


@pytest.mark.parametrize(
    "function, theta",
    [
        (lambda t: t[0].log() + t[1] ** 2, [-1.0, 1.0]),
        (lambda t: t[0].log() + t[0] + t[1] ** 2, [-1.0, 0.0]),  # 1 / x + 1 is 0 there
        (lambda t: (t[0] - 2).sqrt() + t[1] ** 2, [1.0, 1.0]),
        (lambda t: 1 / t[0] + t[1] ** 2, [0.0, 1.0]),
    ],
)
def test_nothing_is_proved_where_f_has_no_value(function, theta):
    """The derivative's formula has values outside the domain of F; they say nothing about F."""
    at = torch.tensor(theta, dtype=torch.float64)
    problem = Problem.from_function(function, at)
    assert isinstance(prove_point(problem, at), NoProof)
    point = classify(problem, at, rigorous=True)
    assert point.kind == "undecided" and str(point.verdict) == "UNKNOWN"


def test_no_critical_point_is_proved_outside_the_domain():
    problem = Problem.from_function(lambda t: t[0].log() + t[0], torch.ones(1, dtype=torch.float64))
    found = critical_points_in_box(problem, [-1.5], [-0.5], max_cells=50)
    assert str(found.verdict) == "UNKNOWN" and len(found.kinds) == 0


def test_a_search_does_not_end_outside_the_domain():
    problem = Problem.from_function(lambda t: t[0].log() + t[0], torch.ones(1, dtype=torch.float64))
    found = find_critical_points(problem, torch.tensor([[-1.2], [-0.9]], dtype=torch.float64))
    assert len(found.points) == 0 and found.gradient_flat.shape[0] == 0 and found.unfinished == 2
