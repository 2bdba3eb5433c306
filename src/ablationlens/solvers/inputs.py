"""What the solvers accept: masks and outputs that fit each other, are finite and are enough."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from ablationlens.errors import InputError
from ablationlens.solvers.design import Design, survey

FEWEST_DRAWS = 10
"""For ridge and lasso: the fewest draws of which the default tenth held out for validation is a whole draw."""


def fewest_draws(solver: str, components: int) -> int:
    """See :func:`ablationlens.solvers.minimum_draws`, which also refuses names that no solver has."""
    return components + 1 if solver == "least_squares" else FEWEST_DRAWS


def refuse_too_few(solver: str, draws: int, components: int) -> None:
    """See :func:`ablationlens.solvers.check_draws`: the same for a name that is known to be a solver's."""
    needed = fewest_draws(solver, components)
    if draws >= needed:
        return
    other = " or solver='ridge'" if solver == "least_squares" and draws >= FEWEST_DRAWS else ""
    raise InputError(
        f"solver {solver!r} needs at least {needed} draws for {components} components, got {draws}: "
        f"type draws={needed} or more{other}"
    )


def checked_inputs(
    solver: str, masks: np.ndarray, outputs: np.ndarray
) -> tuple[Design, Float64[np.ndarray, "draw target"]]:
    """The masks, surveyed, and the outputs in float64; or an error that says what to type."""
    # The public signatures say np.ndarray without a shape, so that wrong shapes meet these messages everywhere.
    masks, outputs = np.asanyarray(masks), np.asarray(outputs)
    if masks.ndim != 2 or 0 in masks.shape or masks.dtype.kind not in "buif":
        raise InputError(
            "expected masks [draw, component] of booleans, integers or floats with at least one of each, "
            f"got shape {masks.shape} of {masks.dtype}"
        )
    if outputs.ndim != 2 or outputs.shape[0] != masks.shape[0] or outputs.shape[1] == 0:
        hint = "; for one target type outputs[:, None]" if outputs.ndim == 1 else ""
        raise InputError(
            f"expected outputs [draw, target] with {masks.shape[0]} draws, got shape {outputs.shape}{hint}"
        )
    refuse_too_few(solver, *masks.shape)
    if outputs.dtype.kind not in "buif":
        raise InputError(f"expected outputs of real numbers, got {outputs.dtype}; type outputs.astype(float)")
    outputs = outputs.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if bad.size:
        raise InputError(
            f"expected finite outputs, got NaN or infinity in {bad.size} of {len(outputs)} draws (the first is draw "
            f"{bad[0]}); leave those draws out: keep = np.isfinite(outputs).all(axis=1)"
        )
    return survey(masks), outputs
