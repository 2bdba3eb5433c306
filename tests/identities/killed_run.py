"""The run that test_coar_requirements kills: `python killed_run.py STORE`, from the root of the checkout.

One example of a tiny model, many draws, so that a kill finds it at work. Prints nothing; the store says it all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import ablationlens as al
from ablationlens.counterfactuals import Counterfactuals, record
from tests import models

DRAWS = 30_000


def run(store: str | Path | None) -> Counterfactuals:
    torch.set_num_threads(1)
    adapter = al.adapt(models.mlp(), example=models.inputs_of("mlp", 1))
    model = al.MaskedModel(adapter, adapter.registry("row"), output=al.Logit(2))
    data = al.batch(models.inputs_of("mlp", 3))
    return record(model, data, al.Bernoulli(len(model.registry), 0.1, DRAWS, seed=7), store=store)


if __name__ == "__main__":
    run(sys.argv[1])
