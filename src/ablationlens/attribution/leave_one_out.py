"""Leave-one-out: what each component does when everything else is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.masks.designs import LeaveOneOut
from ablationlens.results import Attribution, attribution


def leave_one_out(
    model: MaskedModel,
    data: Batch,
    *,
    store: str | Path | None = None,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution:
    """Effect of ablating each component alone: w_j = f(all kept) - f(all but j).

    Exact for single ablations, at the price of one forward pass per component and example. It is no decomposition:
    on real models the weights do not sum to f(all kept) - f(all ablated), and parts that back each other up get
    nothing. The bias is f(all kept) - sum(weights), so that the prediction for "all kept" is right.

    Args:
        model: the masked model.
        data: the examples.
        store: a directory that keeps the outputs; a run that was stopped goes on from there.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        StoreError: if the store belongs to another run, is damaged, or cannot be written.
    """
    check_call(model, data)
    design = LeaveOneOut(len(model.registry))
    found = record(model, data, design, store=store, label="leave-one-out", rows=rows, show_bar=show_bar)
    outputs = found.outputs.astype(np.float64)
    not_finite = int((~np.isfinite(outputs)).sum())
    with np.errstate(invalid="ignore"):
        weights = (outputs[:1] - outputs[1:]).T.copy()
    weights[~np.isfinite(weights)] = np.nan
    provenance = {
        "method": "leave-one-out",
        "design": "leave_one_out",
        "draws": design.draws,
        "quarantined_outputs": not_finite,
        "full_output": outputs[0].tolist(),
        **found.provenance,
    }
    done = attribution(
        "leave-one-out",
        weights,
        outputs[0] - np.nansum(weights, axis=1),
        model.registry,
        data.names(),
        provenance=provenance,
    )
    if store is not None:
        done.save(Path(store) / "attribution.safetensors")
    return done
