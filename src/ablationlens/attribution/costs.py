"""What methods cost, in forward passes of the whole data."""

from __future__ import annotations

from ablationlens.attribution.level import level_draws

GRADIENT_COST = 3
"""Forward passes that a forward and a backward pass count for; measured: 2 to 3."""


def passes_of_paths(draws: int) -> int:
    """Of so many draws of a path gradient, with the hard masks beside them and the pass that keeps everything."""
    return GRADIENT_COST * draws + level_draws(draws) + 1


def paths_for(budget: int) -> int:
    """Draws of a path gradient that a budget pays for."""
    return next((draws for draws in range(budget // GRADIENT_COST, 0, -1) if passes_of_paths(draws) <= budget), 0)
