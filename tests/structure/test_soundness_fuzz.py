"""Random programs: whatever their certificate says must survive attempts to falsify it numerically.

Each program applies 1 to 30 random operators to theta in R^3 (`programs`); a certificate that replays is then
attacked (`falsifiers`): undefined values, bounds, jumps, infinite slopes, kinks, points where it is not analytic,
backprop against differences, convexity, homogeneity, the degree, oscillations.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tameopt.structure import certify

sys.path.insert(0, str(Path(__file__).parent))

from falsifiers import falsify
from programs import program


def attacked(seed, thorough=True):
    """(whether the certificate replayed, whether it says tame, what contradicts it or "")."""
    function, text = program(seed)
    theta = torch.randn(3, generator=torch.Generator().manual_seed(seed + 10**6), dtype=torch.float64)
    with torch.no_grad():
        if not bool(torch.isfinite(function(theta))):
            return False, False, ""
    found = certify(function, inputs=theta)
    if not found.replayed:
        return False, False, "" if found.obstructions else f"the checker rejected {text}: {found}"
    reason = falsify(function, found, seed, thorough)
    return True, found.tame, f"{reason}: {found.summary}; {text}" if reason else ""


def _run(seeds, thorough=True):
    outcomes = [attacked(seed, thorough) for seed in seeds]
    return sum(o[0] for o in outcomes), sum(o[1] for o in outcomes), [o[2] for o in outcomes if o[2]]


@pytest.mark.timeout(600)
def test_five_hundred_random_programs_do_not_falsify_their_certificates():
    replayed, tame, failures = _run(range(500), thorough=False)
    assert not failures, "\n".join(failures[:5])
    # most programs are certified at all, or the test would be empty
    assert replayed > 250
    assert tame > 150


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_thousand_random_programs_do_not_falsify_their_certificates():
    replayed, _, failures = _run(range(1000, 21_000))
    assert not failures, "\n".join(failures[:20])
    assert replayed > 10_000
