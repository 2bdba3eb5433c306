"""The table of ablations: against edited weights, the patterns that transformers returns, and drift itself."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.diagnostics import pattern_cells
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.diagnostics.drift import drift
from ablationlens.diagnostics.kept_patterns import KeptPatterns
from ablationlens.diagnostics.parts import parts_of
from ablationlens.diagnostics.table import ablation_table
from ablationlens.diagnostics.table_result import AblationTable
from ablationlens.files import save_arrays
from tests import models
from tests.conftest import Host, host_of
from tests.families import FAMILIES, model_of
from tests.outputs.examples import padded
from tests.passes import before_each_pass

ROWS = [[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]]
HEADS = models.HEADS


def by_head(host: Host, **options: Any) -> al.MaskedModel:
    return al.MaskedModel(host.adapter, host.registry("head"), **options)


def patterns_of(model: Any, row: list[int]) -> Tensor:
    """[layer, head, query, key] of one text, as transformers returns them."""
    own = models.untied(model)
    own.set_attn_implementation("eager")
    with torch.no_grad():
        return torch.stack(own(torch.tensor([row]), output_attentions=True).attentions)[:, 0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("held_by", ["torch", "transformer_lens", "nnsight"])
def test_rows_are_what_edited_weights_change(held_by: str, name: str, side: str) -> None:
    host = host_of(held_by, name)
    table = ablation_table(by_head(host, output=al.CrossEntropy()), padded(ROWS, side), by="head", rows=2)
    assert table.patterns is not None
    assert table.patterns.dims == ("part", "layer", "head")
    for part, component in enumerate(host.registry("head")):
        edited = models.edited(host.reference, [component])
        effects, changes = [], []
        for row in ROWS:
            losses = [
                float(
                    torch.nn.functional.cross_entropy(
                        models.logits_of(one, torch.tensor([row]))[0, :-1].double(), torch.tensor(row[1:])
                    )
                )
                for one in (host.reference, edited)
            ]
            effects.append(losses[0] - losses[1])
            distance = (patterns_of(edited, row) - patterns_of(host.reference, row)).abs().sum(-1) / 2
            changes.append(distance.mean(-1).numpy())
        assert table.values["effect"].values[part] == pytest.approx(effects, abs=1e-5)
        assert table.frame["effect"][part] == pytest.approx(np.mean(effects), abs=1e-5)
        assert table.frame["effect_se"][part] == pytest.approx(np.std(effects, ddof=1) / math.sqrt(3), abs=1e-5)
        np.testing.assert_allclose(table.patterns.values[part], np.mean(changes, axis=0), atol=1e-5)
    assert table.frame["part"].tolist() == list(host.registry("head").names)
    assert float(table.patterns.max()) > 0.01


def test_the_drift_is_that_of_drift(host: Host) -> None:
    kind = {"convnet": "filter", "mlp": "row", "tied": "row"}.get(host.name, "head")
    registry = host.registry(kind)
    data = host.data(3) if host.transformer else al.batch(host.inputs(3), labels=torch.tensor([1, 4, 2]))
    model = al.MaskedModel(host.adapter, registry)
    table, parts = ablation_table(model, data, patterns=False), 1 - torch.eye(len(registry))
    expected = drift(model, data, parts).table()
    for name in (*MEASURES, *(f"{name}_se" for name in MEASURES)):
        np.testing.assert_allclose(table.frame[name], expected[name], atol=2e-5)
    assert table.patterns is None
    assert "pattern" not in table.frame


def test_scored_positions_alone(torch_gpt2: Host) -> None:
    data, model = padded(ROWS, positions=0), by_head(torch_gpt2)
    found = ablation_table(model, data, scored_only=True).frame
    expected = drift(model, data, 1 - torch.eye(8)).table(scored_only=True)
    np.testing.assert_allclose(found["kl"], expected["kl"], atol=1e-5)
    assert abs(found["kl"][0] - ablation_table(model, data).frame["kl"][0]) > 1e-4


@pytest.mark.parametrize(
    ("by", "first", "number"),
    [
        ("layer", {"part": "L0", "layer": 0, "components": 7}, 2),
        ("module", {"part": "attn.q", "module": "attn.q", "components": 2}, 7),
        (["layer", "kind"], {"part": "L0 matrix", "layer": 0, "kind": "matrix", "components": 7}, 2),
        ("component", {"part": "L0.attn.q", "components": 1}, 14),
    ],
)
def test_components_that_share_what_was_asked_for_go_together(by: Any, first: dict[str, Any], number: int) -> None:
    host = host_of("torch", "llama")
    registry = host.adapter.registry("matrix")
    table = parts_of(registry, by)
    masks = table.masks(0, table.draws)
    frame = registry.frame()
    shared = ["component"] if by == "component" else [by] if isinstance(by, str) else by
    assert int((1 - masks).sum()) == len(registry)  # every component in one part
    for row, mask in zip(table.frame.to_dict("records"), masks, strict=True):
        off = frame[mask.numpy() == 0]
        assert len(off) == row["components"]
        assert len(off[shared].drop_duplicates()) == 1
        assert all(off[name].iloc[0] == row[name] for name in shared if name != "component")
    assert len(table.frame) == number
    assert {name: table.frame[name][0] for name in first} == first
    assert not table.frame["part"].duplicated().any()


def test_a_layer_is_ablated_whole(torch_gpt2: Host) -> None:
    model, data = by_head(torch_gpt2), padded(ROWS)
    table = ablation_table(model, data, by="layer")
    expected = drift(model, data, {"0": range(4), "1": range(4, 8)}).table()
    np.testing.assert_allclose(table.frame["kl"], expected["kl"], atol=1e-5)
    assert table.frame["part"].tolist() == ["L0", "L1"]


def test_the_largest_change_is_one_that_the_part_can_reach(torch_gpt2: Host) -> None:
    rows = torch_gpt2.adapter.registry("row", modules=["q"])
    table = ablation_table(al.MaskedModel(torch_gpt2.adapter, rows), padded(ROWS))
    assert table.patterns is not None
    first, last = table.patterns.values[0], table.patterns.values[-1]
    assert first[0].max() > first[1].max() > 0  # of the head of the row itself
    assert table.frame["pattern"][0] == first.max()
    assert table.frame["pattern_at"][0] == f"L0.head {first[0].argmax()}"
    assert table.frame["pattern_at"].iloc[-1] == f"L1.head {last[1].argmax()}"


def test_what_a_head_found_does_not_reach_the_patterns_of_its_own_layer(torch_gpt2: Host) -> None:
    table = ablation_table(al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head")), padded(ROWS))
    assert table.patterns is not None
    assert table.frame["pattern"][0] == table.patterns.values[0, 1].max()
    assert table.frame["pattern_at"][0].startswith("L1.head ")
    assert math.isnan(table.frame["pattern"].iloc[-1])
    assert table.frame["pattern_at"].iloc[-1] == ""


def test_a_model_without_patterns(small: Host, caplog: pytest.LogCaptureFixture) -> None:
    model = al.MaskedModel(small.adapter, small.registry("row"))
    data = al.batch(small.inputs(3), labels=torch.tensor([1, 4, 2]))
    with caplog.at_level(logging.INFO, "ablationlens"):
        assert ablation_table(model, data).patterns is None
    assert "attention patterns are left out: it is not known where MLP has its attention" in caplog.text
    with pytest.raises(al.AdapterError, match="it is not known where MLP has its attention"):
        ablation_table(model, data, patterns=True)


def test_patterns_that_do_not_show_are_left_out(torch_gpt2: Host, caplog: pytest.LogCaptureFixture) -> None:
    own = torch_gpt2.fresh()
    adapter = al.adapt(own)
    for layer in own.transformer.h:
        layer.attn.register_forward_hook(lambda _m, _i, output: (output[0], None))
    model = al.MaskedModel(adapter, adapter.registry("head"))
    with caplog.at_level(logging.INFO, "ablationlens"):
        table = ablation_table(model, padded(ROWS))
    assert table.patterns is None
    assert "does not return its attention pattern" in caplog.text
    np.testing.assert_allclose(
        table.frame["kl"], ablation_table(by_head(torch_gpt2), padded(ROWS)).frame["kl"], atol=1e-5
    )
    with pytest.raises(al.AdapterError, match="does not return its attention pattern"):
        ablation_table(model, padded(ROWS), patterns=True)


def test_an_output_that_reads_a_pattern_of_its_own(torch_gpt2: Host) -> None:
    model = by_head(torch_gpt2, output=al.PatternMass(1, 2, "current"))
    data = padded(ROWS, "left")
    for patterns in (True, False):
        table = ablation_table(model, data, patterns=patterns)
        masks = 1 - torch.eye(8)
        expected = model(model.mask(), data) - torch.stack([model(mask[None], data) for mask in masks])
        np.testing.assert_allclose(table.values["effect"].values, expected.detach().numpy(), atol=1e-5)


def test_a_pass_that_does_not_fit_is_halved(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = by_head(torch_gpt2), padded(ROWS)
    expected = ablation_table(model, data)

    passes: list[int] = []

    def too_large(batch: al.Batch) -> None:
        passes.append(len(batch))
        if len(passes) in (2, 8):  # when a first pass has been kept, of the clean model and of the masks
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")

    before_each_pass(torch_gpt2.adapter, monkeypatch, too_large)
    found = ablation_table(model, data, rows=2)
    assert expected.patterns is not None
    assert found.patterns is not None
    np.testing.assert_allclose(found.patterns.values, expected.patterns.values, atol=1e-5)
    np.testing.assert_allclose(found.values.to_array(), expected.values.to_array(), atol=1e-5)
    assert found.kept is not None
    assert expected.kept is not None
    assert sorted(zip(*map(found.kept.cells.get, ("part", "layer", "head")), strict=True)) == sorted(
        zip(*map(expected.kept.cells.get, ("part", "layer", "head")), strict=True)
    )


def test_attention_runs_as_before(torch_gpt2: Host) -> None:
    model = by_head(torch_gpt2)
    config = torch_gpt2.adapter.model.config
    before = config._attn_implementation
    ablation_table(model, padded(ROWS), patterns=True)
    assert config._attn_implementation == before != "eager"


def test_which_attention_of_several() -> None:
    inputs = FAMILIES["t5"].batch()
    adapter, data = al.adapt(model_of("t5")), al.batch(inputs)
    model = al.MaskedModel(adapter, adapter.registry("head"), output=al.Logit(3))
    assert ablation_table(model, data).patterns is None
    with pytest.raises(al.InputError, match="several attentions"):
        ablation_table(model, data, patterns=True)
    for attention in ("decoder.cross", "encoder.attn"):
        table = ablation_table(model, data, attention=attention)
        assert table.patterns is not None
        assert 0 < float(table.patterns.max()) <= 1
        assert table.kept is not None
        sizes = [inputs[name].shape[1] for name in ("decoder_input_ids", "input_ids")]
        expected = sizes if attention == "decoder.cross" else [sizes[1]] * 2
        assert [len(table.kept.queries), len(table.kept.keys)] == expected


def test_patterns_between_patches_and_predictions_of_whole_images() -> None:
    adapter, data = al.adapt(model_of("vit")), al.batch(FAMILIES["vit"].batch())
    table = ablation_table(al.MaskedModel(adapter, adapter.registry("head"), output=al.Logit(0)), data, patterns=True)
    assert table.patterns is not None
    assert (table.frame["kl"] > 0).all()
    assert table.frame["log_probability_change"].isna().all()


# -- patterns of one example -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_kept_patterns_are_those_of_edited_weights(name: str, side: str) -> None:
    host = host_of("torch", name)
    table = ablation_table(by_head(host), padded(ROWS, side), example=1, rows=2)
    assert table.kept is not None
    assert (table.kept.example, table.kept.dropped) == (table.values["example"].values[1], 0)
    assert len(table.kept.queries) == len(table.kept.keys) == len(ROWS[1])  # no padding
    clean, changed = patterns_of(host.reference, ROWS[1]), 0
    for component in host.registry("head"):
        after = patterns_of(models.edited(host.reference, [component]), ROWS[1])
        distance = (after - clean).abs().sum(-1).mean(-1) / 2
        for layer in range(2):
            for head in range(HEADS):
                change = float(distance[layer, head])
                if change < 1e-4:  # at 1e-5 it is decided whether it is kept
                    continue
                changed += 1
                shown = table.pattern(component.name, layer=layer, head=head)
                assert shown["mask"].values.tolist() == ["clean", f"without {component.name}"]
                expected = torch.stack([clean[layer, head], after[layer, head]]).numpy()
                np.testing.assert_allclose(shown.values[:, 0, 0, 0], expected, atol=5e-4)
                rows = table.kept.cells.query("part == @component.name and layer == @layer and head == @head")
                assert rows["change"].tolist() == pytest.approx([change], abs=1e-5)
    assert changed >= HEADS  # all parts of layer 0 change something
    assert table.kept.cells["change"].is_monotonic_decreasing
    first = table.kept.cells.iloc[0]
    assert table.pattern()["mask"].values[1] == f"without {first['part']}"
    assert table.pattern()["layer"].values[0] == first["layer"]


def test_those_are_kept_that_change_the_most(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.adapter.registry("row", modules=["q"]))
    data = padded(ROWS)
    every = ablation_table(rows, data).kept
    monkeypatch.setattr(pattern_cells, "NUMBERS", 7 * 25 + 3)  # seven patterns of five tokens
    for rows_of_a_pass in (3, 64):
        table = ablation_table(rows, data, rows=rows_of_a_pass)
        few = table.kept
        assert every is not None
        assert few is not None
        assert len(few.cells) == 7
        assert few.dropped == len(every.cells) - 7 > 20
        np.testing.assert_allclose(few.cells["change"], every.cells["change"][:7], atol=1e-6)
        for row in range(7):
            part, layer, head = few.cells.iloc[row][["part", "layer", "head"]]
            np.testing.assert_allclose(
                few.pair(row)[1], every.pattern(part, layer=layer, head=head)[1, 0, 0, 0], atol=1e-3
            )
        part, layer, head = every.cells.iloc[-1][["part", "layer", "head"]]
        with pytest.raises(al.InputError, match=r"is not kept .* only the 7 that change the most.*attention_patterns"):
            table.pattern(part, layer=layer, head=head)


def test_what_is_held_during_a_sweep_is_bounded(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_cells, "NUMBERS", 2 * 25)
    held: list[int] = []
    offer = pattern_cells.PatternCells.offer

    def counted(cells: Any, *given: Any) -> None:
        offer(cells, *given)
        held.append(len(cells._cells))

    monkeypatch.setattr(pattern_cells.PatternCells, "offer", counted)
    rows = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.adapter.registry("row", modules=["q"]))
    table = ablation_table(rows, padded(ROWS), rows=3)
    assert len(held) >= 64  # passes, of which each finds some that change
    assert max(held) <= 2 * 2
    assert table.kept is not None
    assert len(table.kept.cells) == 2


def test_patterns_that_are_not_there(torch_gpt2: Host) -> None:
    model, data = by_head(torch_gpt2), padded(ROWS)
    table = ablation_table(model, data, example=-1)
    with pytest.raises(al.InputError, match=r"the pattern of L0\.head 0 does not change without L1\.head 2"):
        table.pattern("L1.head 2", layer=0, head=0)
    unknown: list[tuple[dict[str, Any], str]] = [
        ({"layer": 7}, "no layer 7"),
        ({"head": 9}, "no head 9"),
        ({"part": "x"}, "no part 'x'"),
        ({"layer": True}, "no layer True: "),
        ({"head": np.array([0, 1])}, r"no head array\(\[0, 1\]\)"),
    ]
    for wrong, words in unknown:
        with pytest.raises(al.InputError, match=words):
            table.pattern(**wrong)
    bare = ablation_table(model, data, example=None)
    assert bare.kept is None
    assert bare.patterns is not None
    with pytest.raises(al.InputError, match="has kept no patterns: .*example=0"):
        bare.pattern()
    with pytest.raises(al.InputError, match="no example 3"):
        ablation_table(model, data, example=3)


def test_a_table_from_before_patterns_were_kept(torch_gpt2: Host, tmp_path: Path) -> None:
    found = ablation_table(by_head(torch_gpt2), padded(ROWS), example=None)
    assert AblationTable.load(found.save(tmp_path / "table.safetensors")).kept is None


def test_save_and_load(torch_gpt2: Host, tmp_path: Path) -> None:
    for patterns in (True, False):
        found = ablation_table(by_head(torch_gpt2), padded(ROWS), by=["layer", "kind"], patterns=patterns)
        back = AblationTable.load(found.save(tmp_path / "table.safetensors"))
        assert back.frame.equals(found.frame)
        assert back.values.identical(found.values)
        assert back.provenance == found.provenance
        assert (back.patterns is None) == (found.patterns is None)
        if back.patterns is not None and found.patterns is not None:
            assert back.patterns.identical(found.patterns)
        assert (back.kept is None) == (found.kept is None)
        if back.kept is not None and found.kept is not None:
            assert back.kept.cells.equals(found.kept.cells)
            assert (back.kept.queries, back.kept.keys) == (found.kept.queries, found.kept.keys)
            assert back.pattern().identical(found.pattern())
            assert repr(back.kept) == repr(found.kept)
        assert repr(back) == repr(found)
    with pytest.raises(al.StoreError, match="does not hold an ablation table"):
        AblationTable.load(save_arrays(tmp_path / "other.safetensors", {"x": np.zeros(1)}, {"parts": {}}))


@pytest.mark.parametrize("name", ["kept_without", "kept_clean"])
def test_patterns_that_are_too_few_are_refused(torch_gpt2: Host, tmp_path: Path, name: str) -> None:
    kept = ablation_table(by_head(torch_gpt2), padded(ROWS)).kept
    assert kept is not None
    arrays = kept.arrays()
    assert repr(KeptPatterns.from_arrays(arrays, kept.header())) == repr(kept)
    with pytest.raises(ValueError, match=f"{len(arrays[name])} .* and {len(arrays[name]) - 1} patterns of them"):
        KeptPatterns.from_arrays({**arrays, name: arrays[name][:-1]}, kept.header())


@pytest.mark.parametrize("by", ["neuron", [], ["layer", "head"]])
def test_what_parts_cannot_be_made_by(torch_gpt2: Host, by: Any) -> None:
    with pytest.raises(al.InputError, match='by is one of "component", "head", "layer", "module", "kind", "index"'):
        ablation_table(by_head(torch_gpt2), padded(ROWS), by=by)


def test_heads_need_a_registry_of_heads(torch_gpt2: Host) -> None:
    with pytest.raises(al.InputError, match=r"adapter\.registry\('head'\)"):
        ablation_table(al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("row")), padded(ROWS), by="head")
