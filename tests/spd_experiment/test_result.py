"""What an ablation experiment keeps and shows: its tables, and its file."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import ablationlens as al
from ablationlens.files import load_arrays, save_arrays
from ablationlens.spd import PGD, Deterministic, Stochastic
from ablationlens.spd_experiment import AblationExperiment, Restricted, ablation_experiment
from tests.conftest import host_of
from tests.diagnostics.test_patterns import padded
from tests.spd.small import decomposed

ROWS = [[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]]
PART = "L0.attn.q rank_one 2"


@cache
def made(patterns: Any = "first") -> AblationExperiment:
    """Three examples with padding, in three modes."""
    host = host_of("torch", "gpt2")
    own = decomposed(host)
    return ablation_experiment(
        host.adapter,
        own,
        padded(ROWS, left=False),
        {"head": "L0.head 3", "slice": Restricted(PART, 1)},
        free={"freed": PART},
        modes=[Deterministic(own), Stochastic(own, 3), PGD(own, 2)],
        patterns=patterns,
    )


def test_a_table_is_means_over_positions_examples_and_samples() -> None:
    found = made()
    for row in found.table().to_dict("records"):
        at = found.values.sel(mode=row["mode"], ablation=row["ablation"])
        for name in ("kl", "reverse_kl", "js", "top1_changed", "kl_of_means"):
            each = [at[name].values[example, : len(ROWS[example])].mean() for example in range(3)]
            assert row[name] == pytest.approx(np.mean(each), rel=1e-5)
            if name == "kl":
                assert row["kl_se_examples"] == pytest.approx(stats.sem(each), rel=1e-5)
        of_samples = found.samples["kl"].sel(mode=row["mode"], ablation=row["ablation"]).values
        of_samples = of_samples[: row["samples"]].mean(1)
        if row["samples"] == 1:
            assert row["kl_se"] is None
        else:
            assert row["kl_se"] == pytest.approx(stats.sem(of_samples))
        assert row["positions"] == 10
    assert list(found.table()["ablation"]) == 3 * ["head", "slice", "freed"]
    assert list(found.table()["operation"]) == 3 * ["ablate", "ablate", "free"]


def test_one_example_has_no_standard_error_over_examples() -> None:
    host = host_of("torch", "gpt2")
    modes = [Stochastic(decomposed(host), 2)]
    found = ablation_experiment(host.adapter, decomposed(host), host.data(1), {"a": PART}, modes=modes, patterns=None)
    row = found.table().to_dict("records")[0]
    assert row["kl_se_examples"] is None
    assert row["kl_se"] > 0
    numbers = [value for value in row.values() if isinstance(value, float)]
    assert not any(math.isnan(value) for value in numbers)


def test_its_text_shows_effects_beside_the_gap() -> None:
    text = repr(made())
    assert text.splitlines()[0].split() == ["mode", "ablation", "kl", "kl_se", "js", "top1_changed", "gap_kl"]
    assert "nan" not in text.lower()
    assert "stochastic" in text


@pytest.mark.parametrize("patterns", ["first", None])
def test_a_file_gives_all_of_it_back(tmp_path: Path, patterns: Any) -> None:
    found = made(patterns)
    again = AblationExperiment.load(found.save(tmp_path / "deep" / "experiment.safetensors"))
    for name in ("values", "samples", "gaps"):
        assert getattr(again, name).identical(getattr(found, name))
    assert again.provenance == found.provenance
    assert again.traces.keys() == found.traces.keys() == {"PGD", "PGD: freed"}
    assert all(np.array_equal(trace, found.traces[name]) for name, trace in again.traces.items())
    assert again.table().equals(found.table())
    if patterns is None:
        assert again.patterns is None
    else:
        assert found.patterns is not None
        assert again.patterns is not None
        assert again.patterns.identical(found.patterns)
        assert again.pattern_change().identical(found.pattern_change())


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(al.StoreError, match="no file"):
        AblationExperiment.load(tmp_path / "none.safetensors")
    other = save_arrays(tmp_path / "other.safetensors", {"weights": np.zeros(3)}, {"provenance": {}})
    with pytest.raises(al.StoreError, match="does not hold an ablation experiment"):
        AblationExperiment.load(other)
    (tmp_path / "torn.safetensors").write_bytes(made().save(tmp_path / "whole.safetensors").read_bytes()[:900])
    with pytest.raises(al.StoreError, match="damaged"):
        AblationExperiment.load(tmp_path / "torn.safetensors")


@pytest.mark.parametrize("provenance", [None, 5, [], {}, {"data": {}}])
def test_a_provenance_that_no_table_could_be_made_from_is_refused(provenance: Any, tmp_path: Path) -> None:
    arrays, header = load_arrays(made(None).save(tmp_path / "whole.safetensors"), "an experiment")
    changed = save_arrays(tmp_path / "changed.safetensors", arrays, {**header, "provenance": provenance})
    with pytest.raises(al.StoreError, match="does not hold an ablation experiment"):
        AblationExperiment.load(changed)
