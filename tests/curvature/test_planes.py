"""Loss planes: the values on them, the projection of a path, and its distance."""

import math

import pytest
import torch

import tameopt as tame
from tameopt.curvature import planes
from tameopt.problem import Problem

F64 = torch.float64


def bowl(d=3):
    return Problem.from_function(
        lambda t: (t**2 * torch.arange(1.0, d + 1, dtype=F64)).sum(), torch.zeros(d, dtype=F64)
    )


def test_values_and_projection():
    path = torch.tensor([[4.0, 0.0, 0.1], [2.0, 1.0, -0.1], [1.0, -1.0, 0.5], [0.0, 0.0, 0.0]], dtype=F64)
    plane = tame.curvature.loss_plane(bowl(), path, points=7)
    i, j = 2, 5
    theta = plane.origin + plane.a[i] * plane.directions[:, 0] + plane.b[j] * plane.directions[:, 1]
    assert float(plane.losses[i, j]) == pytest.approx(float(bowl().value(theta)))
    assert torch.allclose(plane.directions.T @ plane.directions, torch.eye(2, dtype=F64), atol=1e-12)
    # what the plane does not hold is the distance
    total = path.square().sum(dim=1)
    assert torch.allclose(plane.path.square().sum(dim=1) + plane.distances**2, total, atol=1e-12)
    assert 0.95 < plane.explained < 1 and plane.distances.max() > 0
    image = plane.picture().image
    assert image.z[j][i] == pytest.approx(float(plane.losses[i, j])) and len(image.levels) == 13
    assert "away from it in theta" in plane.picture().caption


def test_without_a_path_and_with_a_straight_one():
    free = tame.curvature.loss_plane(bowl(), points=3, extent=2.0)
    assert math.isnan(free.explained) and float(free.a[-1]) == 2.0
    straight = torch.outer(torch.linspace(1, 0, 5, dtype=F64), torch.tensor([1.0, 2.0, 3.0], dtype=F64))
    assert tame.curvature.loss_plane(bowl(), straight, points=3).explained == pytest.approx(1.0)
    chosen = tame.curvature.loss_plane(bowl(), directions=torch.eye(3, dtype=F64)[:, :2], points=2)
    assert torch.allclose(chosen.directions.abs(), torch.eye(3, dtype=F64)[:, :2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"directions": torch.ones(3, 2, dtype=F64)}, "linearly independent"),
        ({"directions": torch.ones(2, 2, dtype=F64)}, r"directions must have shape \(3, 2\)"),
        ({"path": torch.ones(4, 2, dtype=F64)}, r"path must have shape \(m, 3\)"),
        ({"points": 1}, "points must be at least 2"),
        ({"extent": 0.0}, "extent must be > 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tame.curvature.loss_plane(bowl(), **arguments)
    with pytest.raises(ValueError, match="at least two parameters"):
        tame.curvature.loss_plane(bowl(1))


def test_the_density_is_drawn_with_its_band():
    found = tame.curvature.density(bowl(40).hessian(), num_vectors=4, steps=10)
    picture = tame.curvature.density_picture(found, 50)
    band, line = picture.series
    assert picture.y_log and band.style == "band"
    assert all(low <= middle <= high for low, middle, high in zip(band.y, line.y, band.y_upper, strict=True))


@pytest.mark.parametrize(
    ("share", "words"), [(1.0, "100%"), (0.99999, "99.9%"), (0.9951, "99.5%"), (0.994, "99%"), (0.42, "42%")]
)
def test_a_plane_holds_all_of_a_path_only_where_nothing_is_left(share, words):
    assert planes._percent(share) == words


def test_float32_directions_that_differ_by_rounding_are_refused():
    given = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    given[:, 1] *= 3.0000002
    small = Problem.from_function(lambda t: t.square().sum(), torch.zeros(50))
    with pytest.raises(ValueError, match="linearly independent"):
        tame.curvature.loss_plane(small, directions=given)
