"""Trap certificates: true where claimed, refused elsewhere, and not to be forged."""

from __future__ import annotations

import contextlib
import copy
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tameopt.evidence import Verdict
from tameopt.kl import check, check_shallow, check_trap, ntk, trap_certificate
from tameopt.kl.shallow import ShallowNetwork, Sine, recognise
from tameopt.kl.shallow_numbers import ProvedNumbers, ShallowNumbers, shallow_numbers
from tameopt.kl.trap import certify
from tameopt.problem import Problem

D = torch.float64
MSE = nn.functional.mse_loss


def samples(n: int, d: int, k: int = 1, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, dtype=D, generator=generator)
    Y = torch.randint(0, 2, (n, k), generator=generator).to(D) * 2 - 1
    return X / X.norm(dim=1, keepdim=True), Y


def problem_of(n=6, d=8, m=4096, k=1, seed=0, target_scale=0.7, **options) -> Problem:
    X, Y = samples(n, d, k, seed)
    net = ShallowNetwork(d, m, outputs=k, generator=torch.Generator().manual_seed(seed + 1), **options)
    return Problem(net, MSE, (X, target_scale * Y))


@pytest.fixture(scope="module")
def certified():
    problem = problem_of(antisymmetric=True)
    certificate = trap_certificate(problem)
    assert certificate.verdict is Verdict.PROVED, certificate
    return problem, certificate


def test_gradient_descent_keeps_every_promise(certified):
    problem, certificate = certified
    theta = problem.theta
    start, F0 = theta.clone(), float(problem.value())
    for k in range(120):
        value, gradient = problem.value_and_gradient(theta)
        # 1e-12: the float rounding of this very loop, some 1e2 steps of 1e-16 relative
        assert float(value) <= F0 * certificate.rate**k * (1 + 1e-12) + 1e-28
        assert float((theta - start).norm()) <= certificate.radius
        theta = theta - certificate.step * gradient


def test_stated_steps_reach_the_target(certified):
    problem, certificate = certified
    F0 = float(problem.value())
    assert F0 * certificate.rate**certificate.steps <= certificate.target
    assert F0 * certificate.rate ** (certificate.steps - 3) > certificate.target


def test_saved_certificates_replay(certified, tmp_path):
    path = tmp_path / "trap.safetensors"
    certified[1].save(path)
    assert check(path) is True
    assert certified[1].certificate().replay()
    finding = certified[1].finding(step=40)
    assert finding.verdict is Verdict.PROVED
    assert "From step 40 on" in finding.statement


@pytest.mark.parametrize(
    ("options", "k"),
    [
        ({"activation": name, "trained": trained}, k)
        for name in ("tanh", "sigmoid", "softplus", "gelu", "sin")
        for trained, k in (("first", 1), ("both", 2))
    ],
)
def test_the_checker_sees_the_kernel_that_autodiff_sees(options, k):
    problem = problem_of(n=5, d=4, m=30, k=k, gain=1.3, scale=0.2, **options)
    net = recognise(problem)
    arrays = {"W": net.W, "C": net.C, "X": net.X, "Y": net.Y}
    network = {
        "kind": "one hidden layer", "activation": net.activation, "gain": net.gain, "scale": net.scale,
        "trained": list(net.trained),
    }  # fmt: skip
    bounds = check_shallow.one_hidden_layer_bounds(network, arrays)
    kernel = ntk(problem)
    assert bounds.s0**2 == pytest.approx(kernel.lambda_min, rel=1e-8, abs=1e-13)
    assert pytest.approx(kernel.lambda_max, rel=1e-10) == bounds.J0**2
    assert bounds.s0**2 <= kernel.lambda_min + 1e-13
    u = float((problem.outputs() - problem.targets()).norm())
    assert bounds.u0 == pytest.approx(u, rel=1e-9) and bounds.u0 >= u * (1 - 1e-14)


@pytest.mark.parametrize(
    "trained", [("W",), ("W", "b"), ("W", "b", "C", "e"), ("C",), ("C", "e"), ("b", "C"), ("e",)]
)
def test_any_choice_of_trained_layers_has_the_right_kernel(trained):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 2)).double()
    for name, parameter in zip("WbCe", model.parameters(), strict=True):
        parameter.requires_grad_(name in trained)
    X, Y = samples(5, 4, 2)
    problem = Problem(model, MSE, (X, Y))
    net = recognise(problem)
    assert net.trained == trained
    arrays = {name: getattr(net, name) for name in "WCXYbe"}
    network = {"kind": "one hidden layer", "activation": "tanh", "trained": list(trained)}
    bounds = check_shallow.one_hidden_layer_bounds(network, arrays)
    kernel = ntk(problem)
    assert pytest.approx(kernel.lambda_max, rel=1e-9) == bounds.J0**2
    if kernel.lambda_min > 1e-9:
        assert bounds.s0**2 == pytest.approx(kernel.lambda_min, rel=1e-6)


@pytest.mark.parametrize("trained", ["first", "both"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "gelu", "sin"])
def test_the_lipschitz_constant_holds_between_random_points(activation, trained):
    problem = problem_of(n=5, d=4, m=12, gain=1.5, activation=activation, trained=trained, k=2)
    net = recognise(problem)
    arrays = {"W": net.W, "C": net.C, "X": net.X, "Y": net.Y}
    network = {
        "kind": "one hidden layer", "activation": activation, "gain": net.gain, "scale": net.scale,
        "trained": list(net.trained),
    }  # fmt: skip
    bounds = check_shallow.one_hidden_layer_bounds(network, arrays)
    generator = torch.Generator().manual_seed(3)
    theta0 = problem.theta
    radius = 0.7

    def jacobian(theta):
        return torch.func.jacrev(
            lambda flat: problem.batch_output(problem.unflatten(flat), problem.batches.whole, True).reshape(-1)
        )(theta)

    largest = 0.0
    for _ in range(25):
        left, right = (
            theta0 + radius * nn.functional.normalize(torch.randn(problem.dim, dtype=D, generator=generator), dim=0)
            for _ in range(2)
        )
        right = left + 0.1 * (right - left)  # inside the ball, and close, where the quotient is largest
        gap = torch.linalg.matrix_norm(jacobian(left) - jacobian(right), 2) / (left - right).norm()
        largest = max(largest, float(gap))
    assert largest <= bounds.ell(radius)


def data_of(certificate):
    return {
        **certificate.data,
        "claims": dict(certificate.data["claims"]),
        "arrays": dict(certificate.data["arrays"]),
    }


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("ell", 1 - 1e-5), ("s0", 1 + 1e-5), ("J0", 1 - 1e-5), ("u0", 1 - 1e-5), ("radius", 1 - 1e-3),
        ("step", 1 + 1e-5), ("q", 1 + 1e-5), ("target", 0.5), ("steps", 0.9),
    ],
)  # fmt: skip
def test_a_claim_made_a_little_better_is_rejected(certified, name, factor):
    data = data_of(certified[1])
    value = data["claims"][name] * factor
    data["claims"][name] = int(value) if name == "steps" else value
    assert check_trap.check(data) is False


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(check_trap._CLAIMS), st.floats(0.2, 5.0), min_size=1))
def test_random_forgeries_pass_only_when_true(certified, factors):
    _, certificate = certified
    data = data_of(certificate)
    for name, factor in factors.items():
        data["claims"][name] *= factor
    c = data["claims"]
    if check_trap.check(data):
        # an independent float judgement of the same statement, with the certificate's own numbers as the truth
        true = certificate.data["claims"]
        assert c["s0"] <= true["s0"] * (1 + 1e-6) and c["u0"] >= true["u0"] * (1 - 1e-6)
        assert c["ell"] >= true["ell"] * (1 - 1e-6) and c["J0"] >= true["J0"] * (1 - 1e-6)
        assert c["s0"] * c["radius"] - c["ell"] * c["radius"] ** 2 / 2 >= c["u0"] * (1 - 1e-12)
        assert c["step"] * (c["J0"] + c["ell"] * c["radius"]) ** 2 <= 1 + 1e-12


def test_tampered_arrays_are_rejected(certified):
    for name, change in (
        ("W", lambda a: 0.5 * a),
        ("X", lambda a: np.vstack([a[:1], a[:1], a[2:]])),
        ("Y", lambda a: 3 * a),
        ("C", lambda a: 1.01 * a),
    ):
        data = data_of(certified[1])
        data["arrays"][name] = change(data["arrays"][name])
        assert check_trap.check(data) is False, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="something else"), "must have format"),
        (lambda d: d["claims"].pop("ell"), "must claim a number 'ell'"),
        (lambda d: d["claims"].update(ell=True), "must claim a number 'ell'"),
        (lambda d: d["claims"].update(s0=math.nan), "must be finite"),
        (lambda d: d["arrays"].pop("C"), "must hold a matrix 'C'"),
        (lambda d: d["arrays"].update(C=np.ones((1, 3))), "must fit one network"),
        (lambda d: d["arrays"].update(X=np.full((6, 8), np.nan)), "must be finite"),
        (lambda d: d["arrays"].update(X={"shape": [6, 8], "base64": "AAAA"}), "is damaged"),
        (lambda d: d["network"].update(activation="relu"), "this checker knows tanh"),
        (lambda d: d["network"].update(kind="transformer"), "networks of kind"),
        (lambda d: d["network"].update(trained=["W", "Z"]), "must be among the stored"),
        (lambda d: d["network"].update(gain=-1.0), "gain and scale must be positive"),
    ],
)
def test_what_is_no_certificate_is_refused(certified, change, message):
    data = copy.deepcopy(data_of(certified[1]))
    change(data)
    with pytest.raises(ValueError, match=message):
        check_trap.check(data)


def test_damaged_files_are_refused(certified, tmp_path):
    path = tmp_path / "trap.safetensors"
    certified[1].save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        check(path)
    with pytest.raises(FileNotFoundError, match="no certificate"):
        check(tmp_path / "absent")
    flipped = bytearray(whole)
    flipped[-9] ^= 0x40  # the exponent of one stored weight or input
    path.write_bytes(bytes(flipped))
    with contextlib.suppress(ValueError):
        assert check(path) is False


def test_narrow_networks_are_not_certified_with_the_number_that_fails():
    certificate = trap_certificate(problem_of(m=16))
    assert certificate.verdict is Verdict.UNKNOWN
    assert "must be at most 1/2" in certificate.reason
    assert certificate.finding().verdict is Verdict.UNKNOWN
    with pytest.raises(ValueError, match="no certificate to save"):
        certificate.save("nowhere")


def test_both_layers_certify_when_wide():
    certificate = trap_certificate(problem_of(n=3, m=2**14, trained="both", antisymmetric=True, target_scale=0.3))
    assert certificate.verdict is Verdict.PROVED, certificate


def test_more_outputs_than_parameters_is_named():
    certificate = trap_certificate(problem_of(n=40, d=2, m=4))
    assert "more outputs than trained parameters" in certificate.reason


def test_what_would_help_has_a_number(certified):
    certificate = trap_certificate(problem_of(m=1024, antisymmetric=True))
    assert not certificate.holds
    remedy = certificate.finding().evidence.remedy
    times = float(re.search(r"about ([\d.e+]+) times the width", remedy)[1])
    wider = trap_certificate(problem_of(m=2 * math.ceil(1.3 * times * 512), antisymmetric=True))
    assert wider.h == pytest.approx(certificate.h / math.sqrt(1.3 * times), rel=0.25) and wider.holds


def test_too_large_a_step_is_not_certified(certified):
    problem, certificate = certified
    refused = trap_certificate(problem, step=2 * certificate.step)
    assert not refused.holds
    assert "beyond the largest certified one" in refused.reason
    slower = trap_certificate(problem, step=0.5 * certificate.step)
    assert slower.verdict is Verdict.PROVED and slower.rate > certificate.rate


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 50), nn.ReLU(), nn.Linear(50, 1)), MSE, "relu is not smooth"),
        (
            lambda: nn.Sequential(nn.Linear(8, 50), nn.Tanh(), nn.LayerNorm(50), nn.Linear(50, 1)),
            MSE,
            "operator layer_norm",
        ),
        (lambda: nn.Sequential(nn.Linear(8, 50), nn.Tanh(), nn.Linear(50, 1)), nn.HuberLoss(), "not least squares"),
        (lambda: nn.Sequential(nn.Linear(8, 50), nn.GELU("tanh"), nn.Linear(50, 1)), MSE, "must be the exact one"),
    ],
)
def test_other_models_and_losses_are_not_certified(model, loss, message):
    torch.manual_seed(0)
    certificate = trap_certificate(Problem(model().double(), loss, samples(6, 8)))
    assert certificate.verdict is Verdict.UNKNOWN
    assert message in certificate.reason


def test_hooks_are_refused():
    problem = problem_of()
    handle = problem.model.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert "hooks" in trap_certificate(problem).reason
    handle.remove()


def test_a_model_that_only_looks_shallow_is_refused():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Linear(8, 50), Sine(), Doubled(50, 1)).double()
    problem = Problem(model, MSE, samples(6, 8))
    assert "must be Linear" in recognise(problem)
    # traced, its factor 2 is seen
    assert pytest.approx(math.sqrt(ntk(problem).lambda_max), rel=1e-6) == trap_certificate(problem).J0


def test_float32_weights_are_certified_as_they_are():
    problem = problem_of(antisymmetric=True)
    certificate = trap_certificate(problem.to(torch.float32))
    assert certificate.verdict is Verdict.PROVED, certificate
    assert "exact arithmetic from these float32 weights" in certificate.finding().statement
    assert "exact arithmetic" not in trap_certificate(problem).finding().statement


def test_without_rigour_the_verdict_is_measured(certified):
    certificate = trap_certificate(certified[0], rigorous=False)
    assert certificate.verdict is Verdict.MEASURED
    assert certificate.finding().verdict is Verdict.MEASURED


def test_a_wrong_estimate_does_not_become_a_proof(certified, monkeypatch):
    from tameopt.kl import trap

    net = recognise(certified[0])
    honest = shallow_numbers(net)
    lying = ShallowNumbers(**{**honest.__dict__, "s0": 2 * honest.s0})
    monkeypatch.setattr(trap, "shallow_numbers", lambda net: lying)
    # the claim of the lie is refused; what is proved is claimed of the checker's own numbers
    certificate = certify(net, 1.0)
    assert certificate.verdict is Verdict.PROVED and certificate.s0 <= honest.s0
    bounds = check_shallow.one_hidden_layer_bounds(net.description(), net.arrays())
    doubled = ProvedNumbers(2 * bounds.s0, bounds.J0, bounds.u0, honest.noise, bounds)
    monkeypatch.setattr(trap, "proved_numbers", lambda net, noise: doubled)
    certificate = certify(net, 1.0)
    assert certificate.verdict is Verdict.UNKNOWN
    assert "not by a margin" in certificate.reason


@pytest.mark.parametrize("bias", [True, False])
def test_shared_weights_are_refused(bias):
    # the shared matrix would look like a frozen output layer, and its gradient would be half of the truth
    first, last = nn.Linear(4, 4, bias=bias), nn.Linear(4, 4, bias=False)
    last.weight = first.weight
    problem = Problem(nn.Sequential(first, nn.Tanh(), last).double(), MSE, samples(2, 4, 4))
    assert "share parameters" in recognise(problem)
    # traced, the sharing is seen: the Jacobian is that of autodiff
    certificate = trap_certificate(problem)
    assert pytest.approx(math.sqrt(ntk(problem).lambda_max), rel=1e-6) == certificate.J0
    assert certificate.p == problem.dim


def test_where_rounding_is_not_small_beside_norm_u_the_checkers_numbers_are_claimed(certified):
    problem, certificate = certified
    theta = problem.theta
    for _ in range(300):
        theta = theta - certificate.step * problem.gradient(theta)
        if float(problem.value(theta)) < 1e-24:
            break
    net = recognise(problem, theta)
    plain, proved = shallow_numbers(net), check_shallow.one_hidden_layer_bounds(net.description(), net.arrays())
    # plain numbers with their slack of 1e-7 and 1e-12 cannot be proved here
    assert proved.u0 > plain.u0 * (1 + 1e-7) + 1e-12
    found = trap_certificate(problem, theta)
    assert found.verdict is Verdict.PROVED and found.u0 == proved.u0


def test_a_loss_of_ones_own_is_certified_by_its_operators(certified):
    problem, certificate = certified
    own = Problem(problem.model, lambda output, target: ((output - target) ** 2).mean(), problem.batches.whole)
    found = trap_certificate(own)
    assert found.verdict is Verdict.PROVED and found.step == pytest.approx(certificate.step, rel=1e-12)
    # agrees with least squares at every output that one would look at, and is none
    far = Problem(problem.model, nn.HuberLoss(delta=1e9), problem.batches.whole)
    assert trap_certificate(far).verdict is Verdict.UNKNOWN
    assert "the operator huber_loss in it" in trap_certificate(far).reason
