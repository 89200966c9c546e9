"""The best known factor of gradient descent under PL against PEPit's semidefinite program (optional)."""

from __future__ import annotations

import pytest

from tameopt.kl.rates import best_pl_factor, rates

pytest.importorskip("PEPit")


@pytest.mark.parametrize("mu", [0.1, 0.5])
def test_the_factor_is_the_worst_case_that_pepit_finds(mu):
    from PEPit import PEP
    from PEPit.functions import SmoothQuadraticLojasiewiczFunctionCheap

    L = 1.0
    problem = PEP()
    F = problem.declare_function(SmoothQuadraticLojasiewiczFunctionCheap, L=L, mu=mu)
    F_star = F.stationary_point(return_gradient_and_function_value=True)[2]
    x0 = problem.set_initial_point()
    g0, f0 = F.oracle(x0)
    problem.set_initial_condition(f0 - F_star <= 1)
    problem.set_performance_metric(F(x0 - g0 / L) - F_star)
    worst = problem.solve(verbose=0)
    # under the conditions that PEPit calls cheap the closed form is the worst case itself; the solver has 1e-6 or so
    assert worst == pytest.approx(best_pl_factor(mu, L), abs=1e-5)
    assert worst <= rates(0.5, c=(2 * mu) ** 0.5, L=L).factor + 1e-4
    # the quadratic mu x^2/2 attains (1 - mu)^2
    assert worst >= (1 - mu) ** 2 - 1e-4
