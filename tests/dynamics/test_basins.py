"""Basins of attraction against known ones, labels for what goes nowhere, and the edge between basins."""

import pytest
import torch

import tameopt as tame
from tameopt.dynamics.basin_labels import Basins, _is_near_fixed
from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.intervals import proportion_interval
from tameopt.dynamics.iterate import Attractor

F64 = torch.float64


def lee(t):
    return t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2


def himmelblau(t):
    return (t[0] ** 2 + t[1] - 11) ** 2 + (t[0] + t[1] ** 2 - 7) ** 2


def axis(low, high, n):
    return torch.linspace(low, high, n, dtype=F64)


def test_himmelblau_fractions():
    """On 500 points an axis: .2557 .2471 .2372 .2599; on 100 the boundary cells allow about one percent."""
    found = tame.dynamics.basins(GradientMap(himmelblau, 0.002), (axis(-5, 5, 100), axis(-5, 5, 100)))
    share = {
        tuple(round(float(x)) for x in a.point): s for a, s in zip(found.attractors, found.fractions, strict=True)
    }
    expected = {(3, 2): 0.2557, (4, -2): 0.2471, (-4, -3): 0.2372, (-3, 3): 0.2599}
    assert share.keys() == expected.keys()
    for place, fraction in expected.items():
        assert share[place] == pytest.approx(fraction, abs=0.005)
    assert 0 < found.boundary_share < 0.05
    picture = found.picture()
    assert len(picture.image.z) == 100 and picture.image.categorical[-4:] == (
        "none",
        "left",
        "elsewhere",
        "still moving",
    )


def test_the_double_well_splits_along_its_stable_manifold():
    found = tame.dynamics.basins(GradientMap(lee, 0.2), (axis(-1, 1, 20), axis(-1.5, 1.5, 30)))
    assert found.fractions == (0.5, 0.5)
    assert bool((found.labels[:, :15] == found.labels[0, 0]).all())


def test_starts_beyond_the_escape_radius_leave():
    """Beyond abs(y) = sqrt((2 + a)/a) the map of the double well throws points out."""
    edge = ((2 + 0.5) / 0.5) ** 0.5
    starts = torch.tensor([[0.0, edge * 0.999], [0.0, edge * 1.001]], dtype=F64)
    both = torch.cat([starts, torch.tensor([[0.1, 0.9], [0.1, -0.9]], dtype=F64)])
    found = tame.dynamics.basins(GradientMap(lee, 0.5), both)
    assert int(found.labels[1]) == -2 and int(found.labels[0]) >= 0


def test_a_start_on_the_stable_manifold_is_no_basin():
    found = tame.dynamics.basins(
        GradientMap(lee, 0.2), torch.tensor([[0.5, 0.0], [0.5, 1e-8], [0.5, -1e-8]], dtype=F64), num_steps=400
    )
    assert int(found.labels[0]) == -3
    assert sorted(found.labels[1:].tolist()) == [0, 1]


def test_a_ring_of_minima_is_no_isolated_attractor():
    ring = GradientMap(lambda t: ((t**2).sum() - 1) ** 2, 0.1)
    found = tame.dynamics.basins(ring, (axis(-1, 1, 4), axis(-1, 1, 4)), num_steps=400)
    assert found.attractors == () and found.share(-3) == 1.0


def test_functions_that_do_not_act_by_columns_are_batched_all_the_same():
    """A norm mixes columns when a block is passed at once: the shortcut must notice."""
    found = tame.dynamics.basins(
        GradientMap(lambda t: (t.norm() - 2) ** 2 + t[1] ** 2, 0.1), (axis(-3, 3, 8), axis(-3, 3, 8))
    )
    assert len(found.attractors) == 2 and found.share(0) == pytest.approx(0.5)
    swapped = tame.dynamics.basins(
        GradientMap(lambda t: t.flip(0)[0] ** 2 + t.cumsum(0)[-1] ** 2, 0.1), (axis(-1, 1, 4), axis(-1, 1, 4))
    )
    assert swapped.share(0) == 1.0


def test_any_map_will_do_and_samples_have_exact_intervals():
    def cubic(x):
        return x - 0.5 * (x**3 - x)

    starts = torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = tame.dynamics.basins(cubic, starts)
    low, high = found.interval(0)
    assert low < 0.5 < high
    # beyond sqrt(5) the map throws points out
    assert found.share(-2) == float((starts.abs() > 5**0.5).double().mean())
    assert found.share(0) + found.share(1) + found.share(-2) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="a boundary share needs a grid"):
        found.boundary_share  # noqa: B018


def test_the_edge_between_two_basins_ends_at_the_saddle():
    T = GradientMap(himmelblau, 0.005)
    found = tame.dynamics.basins(T, (axis(-5, 5, 8), axis(-5, 5, 8)))
    start = [torch.tensor([3.0, y], dtype=F64) for y in (0.5, -0.5)]
    edge = tame.dynamics.track_edge(T, *start, found.attractors)
    assert edge.converged
    assert edge.point.tolist() == pytest.approx([3.3851, 0.0739], abs=1e-3)
    with pytest.raises(ValueError, match="two different attractors"):
        tame.dynamics.track_edge(T, start[0], start[0] + 0.01, found.attractors)


def test_bad_grids():
    with pytest.raises(ValueError, match="one non-empty sequence"):
        tame.dynamics.basins(GradientMap(lee, 0.1), ())
    with pytest.raises(ValueError, match=r"starts must have shape \(m, d\)"):
        tame.dynamics.basins(GradientMap(lee, 0.1), torch.zeros(3))
    line = Basins(torch.zeros(3, dtype=torch.int16), (), (axis(0, 1, 3),), 1)
    with pytest.raises(ValueError, match="two axes"):
        line.picture()
    with pytest.raises(ValueError, match="needs a random sample"):
        line.interval(0)


@pytest.mark.parametrize("successes, trials", [(0, 20), (20, 20), (7, 20)])
def test_intervals_cover(successes, trials):
    from scipy.stats import binom

    low, high = proportion_interval(successes, trials)
    assert low <= successes / trials <= high
    # at the ends of the interval what was seen has probability 2.5%
    if successes:
        assert 1 - binom.cdf(successes - 1, trials, low) == pytest.approx(0.025)
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(0.025)
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        proportion_interval(5, 4)


def test_starts_that_slow_down_for_ever_are_not_waited_for_and_say_so():
    """x^4 has no contracting minimum: steps shrink like k^-3/2, and would not end in 100,000 of them."""
    axis = torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=F64)
    T = GradientMap(lambda t: t[0] ** 4 + t[1] ** 4, 0.1)
    seen = []
    found = tame.dynamics.basins(T, (axis, axis), attractors=(), num_steps=100_000, notify=seen.append)
    assert found.share(-4) == 1.0 and "still moving 1.0000" in repr(found)
    assert len(seen) <= 256  # rounds of 8 steps, of 12,500


def test_a_start_that_passes_a_saddle_is_waited_for():
    """Near the stable manifold steps shrink geometrically, then grow: no power of k."""
    starts = torch.tensor([[1.0, 1e-12], [1.0, -1e-9], [0.5, 1e-6]], dtype=torch.float64)
    T = tame.dynamics.GradientMap(lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2, 0.01)
    ends = [Attractor(torch.tensor([0.0, y], dtype=torch.float64), 0.1, 0.98) for y in (-1.0, 1.0)]
    assert tame.dynamics.basins(T, starts, attractors=ends, tolerance=1e-16).labels.tolist() == [1, 0, 1]


def test_a_slow_start_that_reaches_an_attractor_is_labelled_by_it():
    """y^4 + y^2 / 50: like a power of k first, and then to a minimum that contracts."""
    axis = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)
    T = tame.dynamics.GradientMap(lambda t: t[0] ** 2 / 2 + t[1] ** 4 + 0.02 * t[1] ** 2, 0.1)
    assert tame.dynamics.basins(T, (axis, axis), num_steps=10_000, scouts=4).fractions == (1.0,)


def test_starts_next_to_a_flat_minimum_are_not_waited_for_either():
    """x^4 from 0.02: steps hardly shrink in 20,000 of them, and lead nowhere in that time."""
    seen = []
    x = torch.tensor([-1.0, -0.02, 0.02, 0.05, 0.2], dtype=F64)
    T = GradientMap(lambda t: t[0] ** 4 + t[1] ** 2, 0.0104)
    found = tame.dynamics.basins(T, (x, axis(-1, 1, 3)), attractors=(), notify=seen.append)
    assert found.share(-4) == 1.0
    assert len(seen) <= 512  # rounds of 8 steps, of 2,500


def test_a_start_that_slows_down_at_a_bottleneck_is_waited_for():
    """y^3 / 3 + 1e-4 y + y^4 / 4: like 1/k down to y = 0.01, through it, and on to the minimum."""
    T = GradientMap(lambda t: t[0] ** 2 / 2 + t[1] ** 3 / 3 + 1e-4 * t[1] + t[1] ** 4 / 4, 0.2)
    start = torch.tensor([[0.5, 1.0], [0.5, 0.3]], dtype=F64)
    minimum = [Attractor(torch.tensor([0.0, -1.0002], dtype=F64), 0.1, 0.8)]
    assert tame.dynamics.basins(T, start, attractors=minimum).labels.tolist() == [0, 0]


def test_a_slow_slope_before_a_kink_is_waited_for():
    """Slope 1e-4, and 1 from 0 on: the map contracts nowhere and expands nowhere, and yet steps become longer."""

    def ramp(t):
        return -1e-4 * t[0].clamp(max=0.0) - t[0].clamp(0.0, 2.0) + 2 * torch.relu(t[0] - 1) ** 2 + t[1] ** 2

    start = torch.tensor([[-0.01, 0.0], [-0.05, 0.1]], dtype=F64)
    minimum = [Attractor(torch.tensor([1.25, 0.0], dtype=F64), 0.1, 0.8)]
    assert tame.dynamics.basins(GradientMap(ramp, 0.1), start, attractors=minimum).labels.tolist() == [0, 0]


def test_what_moves_on_at_one_pace_is_not_said_to_slow_down():
    starts = torch.tensor([[0.31, 0.2]], dtype=F64)
    for function in (lambda t: t[0].abs() + t[1] ** 2, lambda t: 1e-3 * t[0] + t[1] ** 2):
        found = tame.dynamics.basins(GradientMap(function, 0.1), starts, attractors=(), num_steps=1500)
        assert found.labels.tolist() == [-1]


def test_minima_close_together_have_a_basin_each():
    """x^4 - x^2 / 100: the strip between the minima at 0.07 where T expands is 1% of what a first ball covers."""
    for seed in range(2):
        found = tame.dynamics.basins(
            GradientMap(lambda t: t[0] ** 4 - 1e-2 * t[0] ** 2 + t[1] ** 2 / 2, 0.1),
            (axis(-1, 1, 12), axis(-1, 1, 3)),
            generator=torch.Generator().manual_seed(seed),
        )
        assert found.fractions == (0.5, 0.5)


def test_an_attractor_that_no_scout_met_is_not_given_to_another():
    """The one scout goes to one minimum: its ball may not reach over the narrow saddle to the other."""
    T = GradientMap(lambda t: t[0] ** 4 - 1e-2 * t[0] ** 2 + t[1] ** 2 / 2, 0.1)
    starts = torch.tensor([[0.6, 0.1], [-0.6, 0.1], [0.3, 0.2], [-0.3, 0.0]], dtype=F64)
    found = tame.dynamics.basins(T, starts, scouts=1)
    assert len(found.attractors) == 1
    side = float(found.attractors[0].point[0])
    assert [int(label) == 0 for label in found.labels] == [float(x) * side > 0 for x in starts[:, 0]]


def test_a_saddle_that_a_start_is_leaving_is_no_place_of_rest():
    """Steps below the tolerance that grow: the start goes on to a minimum."""
    T = GradientMap(lee, 0.2)
    ends = [Attractor(torch.tensor([0.0, y], dtype=F64), 0.1, 0.6) for y in (-1.0, 1.0)]
    starts = torch.tensor([[0.0, 1e-11], [0.0, -1e-12], [1e-3, 0.0]], dtype=F64)
    assert tame.dynamics.basins(T, starts, attractors=ends).labels.tolist() == [1, 0, -3]


def test_starts_where_f_is_no_number_are_out_although_its_gradient_is_one():
    """-log(x) + x: autograd gives 1 - 1/x for x < 0 too."""
    T = GradientMap(lambda t: -torch.log(t[0]) + t[0] + t[1] ** 2, 0.1)
    found = tame.dynamics.basins(T, (axis(-2, 2, 4), axis(-1, 1, 3)), num_steps=500)
    assert found.labels.tolist() == [[-2] * 3] * 2 + [[0] * 3] * 2
    assert tame.dynamics.basins(T, (axis(-2, -1, 3), axis(-1, 1, 3)), num_steps=500).share(-2) == 1.0


def test_bad_waits():
    with pytest.raises(ValueError, match="num_steps must be at least 1 and tolerance >= 0, got 0 and 1e-10"):
        tame.dynamics.basins(GradientMap(lee, 0.1), (axis(0, 1, 2), axis(0, 1, 2)), num_steps=0)


def test_a_legend_says_how_many_starts_go_to_no_basin():
    """An odd grid has one start on the saddle, and more on its stable line."""
    picture = tame.dynamics.basins(GradientMap(lee, 0.2), (axis(-1, 1, 3), axis(-1, 1, 5)), num_steps=400).picture()
    assert "elsewhere (3 starts)" in picture.image.categorical and "left" in picture.image.categorical


def test_a_tiny_step_is_no_sign_of_an_edge_state():
    """With alpha = 1e-6 every point stands still to 1e-4, on the boundary far from its saddle too."""
    T = GradientMap(lee, 1e-6)
    assert not _is_near_fixed(T, torch.tensor([1.0, 0.0], dtype=F64))
    assert _is_near_fixed(T, torch.tensor([1e-4, 1e-6], dtype=F64))


def test_minima_that_scouts_are_still_on_their_way_to_are_found():
    """Contracting by 1e-3 a step: no scout comes to rest in 500 steps."""
    T = GradientMap(lambda t: (t[0] ** 2 - 1) ** 2 / 8 + 1e-2 * t[1] ** 2 / 2, 0.1)
    found = tame.dynamics.basins(T, (axis(-2, 2, 6), axis(-0.01, 0.01, 3)), num_steps=504)
    assert len(found.attractors) == 2 and found.fractions == (0.5, 0.5)


def test_no_point_next_to_a_flat_minimum_is_an_attractor():
    """At rest at 1e-2 of x^4: Newton's method creeps too, and where it stops T contracts by a hair."""
    T = GradientMap(lambda t: t[0] ** 4 + t[1] ** 2, 0.01)
    x = torch.tensor([-0.006, -0.004, 0.004, 0.006], dtype=F64)
    found = tame.dynamics.basins(T, (x, axis(-0.1, 0.1, 3)), num_steps=600)
    assert found.attractors == ()
