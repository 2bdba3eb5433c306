"""Figures and sentences of drift and of ablation tables, on a small model whose tables are read beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens import plots
from ablationlens.report.catalogue import kind_of, says_of
from tests.conftest import Host

LABELLED = al.Logit(1)


@pytest.fixture
def table(gpt2: Host) -> al.AblationTable:
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), output=LABELLED)
    return al.ablation_table(model, gpt2.data(3))


@pytest.fixture
def drifted(gpt2: Host) -> al.Drift:
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), output=LABELLED)
    return al.drift(model, gpt2.data(3), {name: name for name in model.registry.names})


def test_parts_are_drawn_by_drift_with_their_effects(table: al.AblationTable) -> None:
    frame = table.frame.sort_values("kl", ascending=False)
    effects, drift = plots.ablations(table, top=4).data  # pyright: ignore
    assert np.allclose(drift.x, frame["kl"].head(4))
    assert np.allclose(effects.x, frame["effect"].head(4))
    assert list(effects.customdata) == frame["part"].head(4).tolist()


def test_changes_of_patterns(table: al.AblationTable) -> None:
    figure: Any = plots.pattern_change(table, top=5)
    shown = np.asarray(figure.data[0].z, dtype=float)
    assert table.patterns is not None
    assert shown.shape == (5, table.patterns[0].size)
    assert shown.max() == pytest.approx(np.nanmax(table.patterns.values))


def test_parts_whose_shortened_names_are_equal_have_rows_of_their_own(table: al.AblationTable) -> None:
    assert table.patterns is not None
    count = len(table.parts)
    names = [f"encoder.attention.row {place:>20} of all the rows <b>" for place in range(count)]
    renamed = replace(
        table,
        parts=table.parts.assign(part=names),
        patterns=table.patterns.assign_coords(part=names),
        values=table.values.assign_coords(part=names),
        kept=None,
    )
    figure: Any = plots.pattern_change(renamed)
    heat_map, axis = figure.data[0], figure.layout.yaxis
    assert list(heat_map.y) == list(axis.tickvals) == list(range(count))
    assert len(set(axis.ticktext)) == 1
    assert all(text.endswith("&lt;b&gt;") for text in axis.ticktext)  # cut first, so that no entity is cut
    assert [row[0] for row in heat_map.customdata] == [name.replace("<b>", "&lt;b&gt;") for name in names]
    assert axis.range == (count - 0.5, -0.5)
    bars: Any = plots.ablations(renamed)
    assert all(text.endswith("&lt;b&gt;") for text in bars.layout.yaxis.ticktext)


def test_one_pattern_without_a_part(table: al.AblationTable) -> None:
    assert table.kept is not None
    figure: Any = plots.pattern_without(table, "L0.head 1", layer=1, head=2)
    shown = [np.asarray(panel.z, dtype=float) for panel in figure.data]
    expected = table.pattern("L0.head 1", layer=1, head=2).values[:, 0, 0, 0]
    assert np.allclose(shown, [*expected, expected[1] - expected[0]])
    assert [title.text for title in figure.layout.annotations] == [
        "clean",
        "without L0.head 1",
        "without L0.head 1 - clean",
    ]
    assert "L1.head 2" in figure.layout.title.text
    assert len(figure.layout.yaxis.ticktext) == len(table.kept.queries)
    largest = table.kept.cells.iloc[0]
    most: Any = plots.pattern_without(table)
    assert f"L{largest['layer']}.head {largest['head']}" in most.layout.title.text
    changed = np.abs(np.asarray(most.data[2].z, dtype=float)).sum(1).mean() / 2
    assert changed == pytest.approx(largest["change"], abs=2e-3)
    with pytest.raises(al.InputError, match="no part"):
        plots.pattern_without(table, 99)


def test_a_table_without_patterns(gpt2: Host) -> None:
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), output=LABELLED)
    bare = al.ablation_table(model, gpt2.data(2), patterns=False)
    with pytest.raises(al.InputError, match="patterns=True"):
        plots.pattern_change(bare)
    with pytest.raises(al.InputError, match="has kept no patterns"):
        plots.pattern_without(bare)
    assert len(kind_of(bare).figures(bare)) == 1
    assert "pattern" not in says_of(bare)


def test_what_they_say(table: al.AblationTable, drifted: al.Drift) -> None:
    frame = table.frame
    most = frame.loc[frame["kl"].idxmax()]
    assert f"{most['part']} is missed most" in says_of(table)
    largest = frame.loc[frame["pattern"].idxmax()]
    assert f"that of {largest['pattern_at']} without {largest['part']}" in says_of(table)
    drift = drifted.table()
    said = says_of(drifted)
    assert f"drift most under {drift.loc[drift['kl'].idxmax(), 'mask']}" in said
    assert f"least under {drift.loc[drift['kl'].idxmin(), 'mask']}" in said
    assert drifted.changed(1)["after"][0] in said
