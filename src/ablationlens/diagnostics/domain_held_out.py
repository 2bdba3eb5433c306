"""Held-out correlation by domain: of each example's own attribution, and of the means of its and of other domains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ablationlens.data import Batch
from ablationlens.diagnostics.domain_agreement import with_weights
from ablationlens.evaluate.studies.fitting import Fitting, tested
from ablationlens.masked_model import MaskedModel
from ablationlens.results import Attribution
from ablationlens.results.by_component import attribution

OWN = "each example"
COLUMNS = ("pearson", "low", "high", "spearman", "undefined")


def held_out(
    model: MaskedModel,
    data: Mapping[str, Batch],
    found: Mapping[str, Attribution],
    fitting: Fitting,
    alpha: float,
    draws: int,
) -> pd.DataFrame:
    """One row per domain and kind of weights, all on the same held-out masks: see `Domains.held_out`."""
    tables: list[pd.DataFrame] = []
    for name, batch in data.items():
        carried = {f"mean of {other}": _carried(one, found[name], other == name) for other, one in found.items()}
        methods = {OWN: found[name], **{key: one for key, one in carried.items() if one is not None}}
        table = tested(model, batch, methods, fitting, [alpha], draws).table()
        tables.append(
            pd.DataFrame({"domain": name, "weights": table["method"], **{column: table[column] for column in COLUMNS}})
        )
    return pd.concat(tables, ignore_index=True)


def _carried(source: Attribution, target: Attribution, same: bool) -> Attribution | None:
    """The mean attribution of one domain for the examples of another; of the other examples of their own domain."""
    weights, bias = source.weights.values, source.bias.values
    has = with_weights(weights) & np.isfinite(bias)
    weights, bias = np.nan_to_num(np.where(has[:, None], weights, 0.0)), np.where(has, bias, 0.0)
    examples, counted = target.weights["example"].values.tolist(), int(has.sum())
    if counted < (2 if same else 1):
        return None
    if same:
        others = counted - has
        weights, bias = (weights.sum(axis=0) - weights) / others[:, None], (bias.sum() - bias) / others
    else:
        weights = np.repeat(weights.sum(axis=0, keepdims=True) / counted, len(examples), axis=0)
        bias = np.full(len(examples), bias.sum() / counted)
    return attribution("mean", weights, bias, target.registry, examples, provenance=target.provenance)
