"""Figures of drift, beside the numbers that they are drawn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens import plots
from tests.conftest import Host


@pytest.fixture
def drifted(gpt2: Host) -> al.Drift:
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), output=al.Logit(1))
    return al.drift(model, gpt2.data(3), {name: name for name in model.registry.names})


def test_drift_is_drawn_largest_first(drifted: al.Drift) -> None:
    frame = drifted.table()
    for measure in ("kl", "top1_changed"):
        bars: Any = plots.drift(drifted, measure=measure, top=3).data[0]
        assert np.allclose(bars.x, sorted(frame[measure], reverse=True)[:3])
    most = frame.loc[frame["kl"].idxmax(), "mask"]
    assert str(most) in plots.drift(drifted, top=1).data[0].customdata[0][0]  # pyright: ignore
    with pytest.raises(al.InputError, match="no measure 'kll'"):
        plots.drift(drifted, measure="kll")


def test_where_it_drifts(drifted: al.Drift) -> None:
    name = str(drifted.values["mask"].values[2])
    figure: Any = plots.drift_positions(drifted, mask=name, measure="log_probability_change")
    shown = np.asarray(figure.data[0].z, dtype=float)
    assert np.allclose(shown, drifted.values["log_probability_change"].values[2], equal_nan=True)
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    assert plots.drift_positions(drifted).data[0].coloraxis == "coloraxis2"  # pyright: ignore
    for wrong in ("nobody", 99):
        with pytest.raises(al.InputError, match="no mask"):
            plots.drift_positions(drifted, mask=wrong)


def test_examples_whose_shortened_names_are_equal_have_rows_of_their_own(drifted: al.Drift) -> None:
    names = [f"the first words are the same {place:>9} and the last words" for place in range(3)]
    figure: Any = plots.drift_positions(replace(drifted, values=drifted.values.assign_coords(example=names)))
    assert list(figure.data[0].y) == list(figure.layout.yaxis.tickvals) == [0, 1, 2]
    assert len(set(figure.layout.yaxis.ticktext)) == 1
    for name, row in zip(names, figure.data[0].customdata, strict=True):
        assert row[1].startswith(f"{name}, position 1<br>after ")


def test_whiskers_are_standard_errors_over_examples(drifted: al.Drift) -> None:
    bars: Any = plots.drift(drifted, measure="js", top=2).data[0]
    by_example = np.nanmean(drifted.values["js"].values, axis=-1)  # [mask, example]
    errors = by_example.std(axis=1, ddof=1) / np.sqrt(by_example.shape[1])
    largest = np.argsort(-by_example.mean(axis=1))[:2]
    np.testing.assert_allclose(bars.error_x.array, errors[largest], rtol=1e-4)
    changed = drifted.values["top1_changed"].values.mean(axis=(1, 2))[largest]
    assert [row[1] for row in bars.customdata] == [f"{100 * share:.3g}%" for share in np.round(changed, 3)]


def test_how_many_are_left_out_is_said(drifted: al.Drift) -> None:
    masks = len(drifted.values["mask"])
    assert f"The 3 largest of {masks}." in plots.drift(drifted, top=3).layout.title.subtitle.text  # pyright: ignore
    whole: Any = plots.drift(drifted, top=masks)
    assert "largest" not in whole.layout.title.subtitle.text
    assert len(whole.data[0].x) == masks
    assert whole.layout.yaxis.range == (masks - 0.5, -0.5)
