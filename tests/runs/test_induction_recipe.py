"""The recipe of induction heads, as it stands: what the bundled model's card says of its heads comes out."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens import zoo
from ablationlens.errors import ConfigError
from ablationlens.runs import config_file
from ablationlens.runs import running as runs
from tests.runs.tiny_runs import Command, Refused

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]

RECIPE = Path(__file__).parents[2] / "recipes" / "induction_heads.yaml"


def test_it_runs_and_finds_the_heads_of_the_card(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, err = command("run", RECIPE, "--out", out, "--set", "data.count=4", "--set", "model.host=torch")
    assert code == 0, err
    assert "ablation table: Of 8 parts, L0.head 3 is missed most" in printed
    found = runs.read(out)[1]
    assert list(found.diagnostics) == ["ablation table", "drift", "completeness"]
    first = found.attributions["attribute"]

    tokens = zoo.load("induction").sequences(4, 24)
    model = zoo.load("induction").model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        pattern = model(tokens, output_attentions=True).attentions[1][:, 2].numpy()
    mass = [
        np.mean([sum(row[query, key + 1] for key in range(query) if ids[key] == ids[query]) for query in range(24, 47)])
        for row, ids in zip(pattern, tokens.tolist(), strict=True)
    ]
    np.testing.assert_allclose(first.provenance["full_output"], mass, atol=1e-5)
    assert min(mass) > 0.9

    loo = found.attributions["leave-one-out"].weights.values.mean(axis=0)
    assert int(loo.argmax()) == first.components.index("L0.head 3")
    drift = cast("al.Drift", found.diagnostics["drift"]).table()
    kl = dict(zip(drift["mask"], drift["kl"], strict=True))
    assert kl["previous-token head"] > 1 > kl["one induction head"]


def test_the_changes_that_its_comment_proposes(tmp_path: Path) -> None:
    from ablationlens.runs.overrides import Override

    lines = [line.partition("...")[2] for line in RECIPE.read_text().splitlines() if line.startswith("#     ...")]
    assert len(lines) == 3
    for line in lines:
        changes = [change.strip().strip("'") for change in line.split("--set ")[1:]]
        changed = config_file.load(RECIPE, [Override.parse(change, tmp_path) for change in changes])
        assert changed != config_file.load(RECIPE)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("output.pattern_mass.head=4", "output.pattern_mass.head: layer 1 has heads 0 to 3; got 4"),
        ("output.pattern_mass.layer=2", "output.pattern_mass: "),
        ("output.pattern_mass.attention=cross", "output.pattern_mass: no attention 'cross'"),
        ("model.name=domains", "data.sequences: those of the bundled model induction: set model.name to induction"),
    ],
)
def test_what_does_not_fit_the_model(refused: Refused, tmp_path: Path, change: str, expected: str) -> None:
    assert expected in refused("run", RECIPE, "--out", tmp_path / "out", "--set", "model.host=torch", "--set", change)


def test_sequences_are_scored_where_the_next_token_was_seen_before() -> None:
    text = RECIPE.read_text().replace("host", "x")
    config = config_file.parse(text, "c.yaml")
    torch_host = config.model_copy(update={"model": config.model.model_copy(update={"host": "torch"})})
    data = runs.prepare(torch_host).data
    assert torch.equal(data.inputs["input_ids"], zoo.load("induction").sequences(16, 24))
    assert data.scored is not None
    assert [int(place) for place in data.scored[0].nonzero()] == list(range(24, 47))
    with pytest.raises(ConfigError, match="data.sequences: should be less than or equal to 64; got 65"):
        config_file.parse(text.replace("sequences: 24", "sequences: 65"), "c.yaml")
