"""What a run says of itself on the screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.runs import config_file
from ablationlens.runs import running as runs
from ablationlens.runs.running import Prepared, Results
from ablationlens.runs.summary import told
from tests.runs.tiny_runs import WriteConfig

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]

METHODS: list[Any] = [
    {"attribute": {"alpha": 0.25, "budget": 100}},
    "leave_one_out",
    {"conductance": {"steps": 2}},
]
SPENT = {"chosen": "path gradient", "spent": 1234, "budget": 5000, "expected_loss": 0.0042, "stopped_early": True}


@pytest.fixture
def prepared(write_config: WriteConfig) -> Prepared:
    return runs.prepare(config_file.load(write_config(method=METHODS)))


def results(prepared: Prepared, noise: float, spent: Mapping[str, Any]) -> Results:
    """Attributions without a model: weights of which the true outputs are the sum, and noise."""
    generator = np.random.default_rng(0)
    registry, examples = prepared.model.registry, len(prepared.data)
    weights = generator.normal(size=(examples, len(registry)))
    masks = generator.random((40, len(registry))) > 0.25
    predicted = masks @ weights.T
    true = predicted + noise * generator.normal(size=predicted.shape)
    from ablationlens.results import attribution

    made = {
        method.name: attribution(
            method.name, weights, np.zeros(examples), registry, prepared.data.names(), provenance=dict(spent)
        )
        for method in prepared.config.method
    }
    scores = al.evaluate(prepared.model, prepared.data, made, alphas=[0.25], draws=40)
    correlations = [np.corrcoef(true[:, i], predicted[:, i])[0, 1] for i in range(examples)]
    frame = scores.frame.assign(pearson=np.tile(correlations, len(made)))
    return Results(made, dataclasses.replace(scores, frame=frame))


def test_what_was_done_and_how_far_to_trust_it(prepared: Prepared) -> None:
    done = results(prepared, 0.1, {**SPENT, "seconds": 7.2})
    row = done.scores.table().iloc[0]
    assert list(told(prepared, done)) == [
        "attribute: path gradient, 1,234 of at most 5,000 forward passes of the data; stopped early, because all "
        "further draws would gain about 0.004 of correlation",
        f"  held-out correlation {row['pearson']:.2f} (95% interval {row['low']:.2f} to {row['high']:.2f}) with 25% of "
        f"the components ablated: a sum of its weights accounts for about {row['pearson'] ** 2:.0%} of the variation "
        "between such ablations",
        "leave-one-out: 9 forward passes of the data",
        "conductance: 7 s",
    ]


def test_a_budget_that_was_spent(prepared: Prepared) -> None:
    lines = list(told(prepared, results(prepared, 0.1, {**SPENT, "stopped_early": False})))
    assert lines[0].endswith("forward passes of the data; sampling noise costs it about 0.004 of correlation")


def test_nothing_to_trust(prepared: Prepared) -> None:
    done = results(prepared, 1e3, SPENT)
    assert list(told(prepared, done))[1].endswith("ablated: no better than no prediction at all")
    undefined = dataclasses.replace(done.scores, frame=done.scores.frame.assign(pearson=np.nan))
    line = list(told(prepared, Results(done.attributions, undefined)))[1]
    assert line == (
        "  held-out correlation undefined with 25% of the components ablated: the true or the predicted outputs do not "
        "vary"
    )


def test_what_was_tested_elsewhere_alone_says_nothing(prepared: Prepared) -> None:
    done = results(prepared, 0.1, SPENT)
    moved = dataclasses.replace(
        done.scores,
        frame=done.scores.frame.assign(alpha=0.5),
        true={0.5: done.scores.true[0.25]},
        predicted={(name, 0.5): values for (name, _), values in done.scores.predicted.items()},
    )
    assert not any(line.startswith(" ") for line in told(prepared, Results(done.attributions, moved)))
