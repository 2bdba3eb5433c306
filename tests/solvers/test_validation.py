"""Choosing a penalty, or not."""

from __future__ import annotations

import numpy as np
import pytest

from ablationlens.errors import InputError
from ablationlens.solvers import lasso, ridge
from tests.solvers.problems import problem


def test_a_single_penalty_is_used_without_validation() -> None:
    masks, outputs = problem()
    for solver in (ridge, lasso):
        fit = solver(masks, outputs, penalties=[0.1])
        assert fit.validation_error.shape == (1, 4) and np.isnan(fit.validation_error).all()
        # The last draws count as much as the others.
        outputs[-1] += 100
        assert not np.allclose(solver(masks, outputs, penalties=[0.1]).weights, fit.weights)


@pytest.mark.parametrize("solver", [ridge, lasso])
def test_options_out_of_range_are_refused(solver: type) -> None:
    masks, outputs = problem()
    for penalties in ([], [0.0], [-1.0, 1.0], [np.nan]):
        with pytest.raises(InputError, match="positive penalties"):
            solver(masks, outputs, penalties=penalties)
    for validation in (0.0, 1.0, -0.1, 0.999, np.nan):
        with pytest.raises(InputError, match="validation is the share of the 120 draws"):
            solver(masks, outputs, validation=validation)
