"""The solvers by name, and how many draws each of them needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ablationlens.errors import InputError
from ablationlens.solvers.fit import Fit
from ablationlens.solvers.inputs import fewest_draws, refuse_too_few
from ablationlens.solvers.lasso_regression import lasso
from ablationlens.solvers.ordinary_least_squares import least_squares
from ablationlens.solvers.ridge_regression import ridge

SOLVERS: dict[str, Callable[..., Fit]] = {"ridge": ridge, "least_squares": least_squares, "lasso": lasso}
"""The solvers by name; the first is the default of COAR."""


def check_solver(solver: Any) -> None:
    """Refuse what is no name of a solver.

    Raises:
        InputError: naming the solvers.
    """
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise InputError(f"expected a solver among {', '.join(SOLVERS)}, got {solver!r}; type solver='ridge'")


def minimum_draws(solver: str, components: int) -> int:
    """The fewest draws that a solver accepts: components + 1 for least squares, 10 for ridge and lasso.

    Least squares has one unknown per component and the bias. The other two can fit anything, but choose a penalty on
    a tenth of the draws by default, and ten are the fewest of which that is a whole draw. This is what the solver
    needs to run, not what makes its answer good: that takes a few times as many draws as components.

    Raises:
        InputError: no solver has this name.
    """
    check_solver(solver)
    return fewest_draws(solver, components)


def check_draws(solver: str, draws: int, components: int) -> None:
    """Refuse fewer draws than a solver needs: call it before the forward passes are spent.

    Raises:
        InputError: no solver has this name, or the draws are too few for it.
    """
    minimum_draws(solver, components)  # refuses other names
    refuse_too_few(solver, draws, components)
