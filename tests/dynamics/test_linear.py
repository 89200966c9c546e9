"""The lecture's quiz on linear maps, and invariant spaces of defective and nearly defective matrices."""

import numpy as np
import pytest
import torch

import tameopt as tame


def power_norm(M, x, k=400):
    for _ in range(k):
        x = M @ x
        if np.linalg.norm(x) > 1e12:
            break
    return np.linalg.norm(x)


@pytest.mark.parametrize(
    "M, generic",
    [
        (0.5, "converges to 0"),
        (-0.99, "converges to 0"),
        (1.01, "diverges"),
        (0.6 + 0.6j, "converges to 0"),
        (0.8 + 0.8j, "diverges"),
        (1j, "stays bounded"),
        (np.diag([0.5, -0.5]), "converges to 0"),
        (np.diag([0.5, 2.0]), "diverges"),
        (np.array([[0.9, 100.0], [0.0, 0.9]]), "converges to 0"),
        (np.array([[1.0, 1.0], [0.0, 1.0]]), "undecided"),
        (np.eye(3), "stays bounded"),
        (np.array([[0.0, -1.0], [1.0, 0.0]]), "stays bounded"),
    ],
)
def test_the_quiz(M, generic):
    assert tame.dynamics.convergence(M).generic == generic


def test_the_start_decides_when_it_lies_in_the_stable_space():
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    M = Q @ np.diag([0.5, 0.9, 2.0]) @ Q.T
    inside, outside = Q[:, :2] @ [1.0, -2.0], Q[:, :2] @ [1.0, 1.0] + 1e-6 * Q[:, 2]
    assert tame.dynamics.convergence(M, inside).from_start == "converges to 0"
    assert tame.dynamics.convergence(M, outside).from_start == "diverges"
    assert power_norm(M, outside, 60) > 1e8


@pytest.mark.parametrize("seed", range(5))
def test_spaces_are_invariant_and_split_space(seed):
    generator = np.random.default_rng(seed)
    M = generator.standard_normal((6, 6)) * 0.6
    parts = tame.dynamics.splitting(M)
    assert parts.stable.dimension + parts.center.dimension + parts.unstable.dimension == 6
    moduli = np.abs(np.linalg.eigvals(M))
    assert parts.stable.dimension == (moduli < 1).sum()
    for part in (parts.stable, parts.unstable):
        assert part.residual < 1e-12
        assert torch.allclose(part.basis.T @ part.basis, torch.eye(part.dimension, dtype=torch.float64), atol=1e-12)
    # M restricted to each space, in its basis: rounding would take M's own powers out of the stable space
    Q = parts.stable.basis.numpy()
    assert np.linalg.norm(np.linalg.matrix_power(Q.T @ M @ Q, 400)) < 1e-2 if Q.shape[1] else True
    Q = parts.unstable.basis.numpy()
    assert (np.abs(np.linalg.eigvals(Q.T @ M @ Q)) > 1).all()


def test_a_jordan_block_belongs_to_the_stable_space():
    assert tame.dynamics.splitting([[0.5, 1.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]]).stable.dimension == 2
    assert tame.dynamics.unstable_space([[0.5, 1.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 2.0]]).dimension == 1
    assert not tame.dynamics.splitting(np.eye(2)).hyperbolic


def test_the_gradient_map_of_a_saddle_has_the_stable_space_of_the_hessian():
    A = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    space = tame.dynamics.stable_space(torch.eye(2, dtype=torch.float64) - 0.4 * A)
    assert space.basis.abs().squeeze().tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("M", [np.ones((2, 3)), [[np.nan, 0.0], [0.0, 1.0]], np.zeros((0, 0))])
def test_bad_matrices(M):
    with pytest.raises(ValueError, match="M must be"):
        tame.dynamics.splitting(M)


def test_bad_starts():
    with pytest.raises(ValueError, match=r"x0 must have shape \(2,\)"):
        tame.dynamics.convergence(np.eye(2), [1.0])


def jordan(value, size):
    Q = np.linalg.qr(np.random.default_rng(size).standard_normal((size, size)))[0]
    return Q @ (value * np.eye(size) + np.diag(np.ones(size - 1), 1)) @ Q.T


@pytest.mark.parametrize("value, size", [(0.9999, 5), (0.999, 8), (0.99, 10), (1.0, 4), (1.0, 6), (1.001, 6)])
def test_a_defective_matrix_next_to_the_circle_is_of_no_side(value, size):
    """Rounding moves its eigenvalues by eps^(1/size), to both sides of the circle."""
    found = tame.dynamics.convergence(jordan(value, size), np.ones(size))
    assert found.generic == "undecided" and found.from_start == "undecided"
    assert tame.dynamics.splitting(jordan(value, size)).center.dimension == size


@pytest.mark.parametrize(
    "value, size, generic", [(0.5, 6, "converges to 0"), (1.5, 6, "diverges"), (0.9, 3, "converges to 0")]
)
def test_a_defective_matrix_away_from_the_circle_is_decided(value, size, generic):
    assert tame.dynamics.convergence(jordan(value, size)).generic == generic


def test_an_unsure_block_leaves_the_others_decided():
    M = np.zeros((7, 7))
    M[:5, :5], M[5, 5], M[6, 6] = jordan(0.9999, 5), 0.5, 2.0
    parts = tame.dynamics.splitting(M)
    assert (parts.stable.dimension, parts.center.dimension, parts.unstable.dimension) == (1, 5, 1)


@pytest.mark.parametrize(
    "M, generic",
    [
        ([[1 + 1e-12]], "undecided"),
        ([[1.0, 1e-13], [0.0, 1.0]], "undecided"),
        ([[1.0, 5.0], [0.0, -1.0]], "undecided"),
        ([[1.0, 0.0], [0.0, 0.5]], "stays bounded"),
        ([[0.0, 1.0], [1.0, 0.0]], "stays bounded"),
        ([[1 - 1e-7]], "converges to 0"),
    ],
)
def test_within_rounding_of_the_circle_only_what_is_exact_is_claimed(M, generic):
    assert tame.dynamics.convergence(M).generic == generic
