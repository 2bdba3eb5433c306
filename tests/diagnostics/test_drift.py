"""Drift: against torch.distributions and SciPy on models with edited weights, on every adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

import ablationlens as al
from ablationlens.adapters.base import Adapter
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.diagnostics.divergences import divergences
from ablationlens.diagnostics.drift import drift
from ablationlens.diagnostics.drift_result import Drift
from ablationlens.files import save_arrays
from tests import models
from tests.conftest import Host, host_of
from tests.outputs.examples import Tokens, padded
from tests.passes import before_each_pass

KIND = {"convnet": "filter", "mlp": "row", "tied": "row"}
ROWS = [[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]]


def masked(host: Host) -> al.MaskedModel:
    return al.MaskedModel(host.adapter, host.registry(KIND.get(host.name, "head")))


def measures_of(drift: Drift) -> np.ndarray:
    return np.stack([drift.values[name].values for name in MEASURES])


def expected_of(clean: Tensor, ablated: Tensor, label: int | None) -> list[float]:
    """Every measure of one prediction, by other people's code and by sorting."""
    p, q = (Categorical(logits=logits.double()) for logits in (clean, ablated))
    found = [float(kl_divergence(p, q)), float(kl_divergence(q, p)), float(jensenshannon(p.probs, q.probs) ** 2)]
    found.append(float(int(p.probs.argmax()) != int(q.probs.argmax())))
    if label is None:
        return [*found, math.nan, math.nan]
    ranks = [sorted(one.probs.tolist(), reverse=True).index(float(one.probs[label])) for one in (p, q)]
    change = q.log_prob(torch.tensor(label)) - p.log_prob(torch.tensor(label))
    return [*found, float(change), float(ranks[1] - ranks[0])]


def test_drift_is_that_of_a_model_with_edited_weights(host: Host) -> None:
    model = masked(host)
    inputs = host.inputs(3)
    data = al.batch(inputs) if host.transformer else al.batch(inputs, labels=torch.tensor([1, 4, 2]))
    sets = [[0], [1, len(model.registry) - 1]]
    found = drift(model, data, torch.cat([model.mask(off) for off in sets]))
    clean = models.logits_of(host.reference, inputs)
    for mask, off in enumerate(sets):
        edited = models.edited(host.reference, [model.registry[column] for column in off])
        ablated = models.logits_of(edited, inputs)
        for example in range(3):
            for position in range(found.values.sizes["position"]):
                at = (example, position) if host.transformer else (example,)
                assert data.labels is not None
                label: int | None = int(data.labels[at])
                expected = expected_of(clean[at], ablated[at], None if label == al.data.NO_LABEL else label)
                got = measures_of(found)[:, mask, example, position]
                assert got == pytest.approx(np.array(expected), abs=1e-5, nan_ok=True)
                assert found.values["before"].values[example, position] == int(clean[at].argmax())
                assert found.values["after"].values[mask, example, position] == int(ablated[at].argmax())
    assert float(found.values["kl"].max()) > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_its_examples_one_by_one(gpt2: Host, side: str) -> None:
    model = masked(gpt2)
    names = {"head": "L0.head 1", "heads": ["L0.head 0", "L1.head 2"]}
    data = padded(ROWS, side)
    together = drift(model, data, names)
    assert data.attended is not None
    for example, row in enumerate(ROWS):
        alone = drift(model, al.batch(torch.tensor([row])), names)
        real = data.attended[example].numpy()
        got = measures_of(together)[:, :, example]
        assert np.isnan(got[..., ~real]).all()
        np.testing.assert_allclose(got[..., real], measures_of(alone)[:, :, 0], atol=2e-5)
        for column in ("token", "before"):
            values = together.values[column].values[example]
            assert values[real].tolist() == alone.values[column].values[0].tolist()
            assert (values[~real] == -1).all()


def test_one_row_a_pass_and_all_at_once_are_the_same(gpt2: Host) -> None:
    model, data = masked(gpt2), padded(ROWS)
    design = al.Bernoulli(len(model.registry), 0.3, 5)
    packed = drift(model, data, design)
    for rows in (1, 2, 3):
        np.testing.assert_allclose(measures_of(drift(model, data, design, rows=rows)), measures_of(packed), atol=2e-5)


def test_pieces_make_no_difference(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = masked(torch_gpt2), padded(ROWS, "left")
    names = {"a": "L0.head 1", "b": None}
    whole = measures_of(drift(model, data, names))
    monkeypatch.setattr("ablationlens.diagnostics.clean.PIECE", {"cpu": 100})
    monkeypatch.setattr("ablationlens.diagnostics.clean.KEPT", 0)
    np.testing.assert_allclose(measures_of(drift(model, data, names)), whole, atol=1e-6)


def test_nothing_ablated_is_no_drift_at_all(host: Host) -> None:
    model, data = masked(host), host.data(3)
    values = measures_of(drift(model, data, torch.ones(1, len(model.registry))))
    assert (values[:4] == 0).all()
    assert np.nan_to_num(values[4:]).max() == np.nan_to_num(values[4:]).min() == 0


def test_a_pass_that_does_not_fit_is_halved(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = masked(torch_gpt2), padded(ROWS)
    names = {"a": "L0.head 1", "b": "L1.head 0", "c": None}
    expected = measures_of(drift(model, data, names))

    passes: list[int] = []

    def too_large(batch: al.Batch) -> None:
        passes.append(len(batch))
        if len(passes) in (2, 8):  # when a first pass has been kept, of the clean model and of the masks
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")

    before_each_pass(torch_gpt2.adapter, monkeypatch, too_large)
    np.testing.assert_allclose(measures_of(drift(model, data, names, rows=2)), expected, atol=1e-5)


def test_masks_by_name_may_be_of_positions_or_of_examples(torch_gpt2: Host) -> None:
    model, data = masked(torch_gpt2), padded(ROWS, "left")
    at_end = model.mask("L0.head 1", positions=-1, data=data)
    each = torch.ones(3, 8)
    each[1, 2] = 0
    found = drift(model, data, {"everywhere": "L0.head 1", "at the end": at_end, "in one": each, "off": torch.zeros(8)})
    assert found.values["mask"].values.tolist() == ["everywhere", "at the end", "in one", "off"]
    kl = found.values["kl"].values
    assert (kl[1, :, :-1][~np.isnan(kl[1, :, :-1])] < 1e-9).all()
    assert (kl[1, :, -1] > 1e-4).all()
    assert np.nanmax(kl[2, [0, 2]]) < 1e-9 < 1e-4 < np.nanmax(kl[2, 1])
    np.testing.assert_allclose(kl[3], drift(model, data, torch.zeros(1, 8)).values["kl"].values[0], atol=1e-5)
    by_position = drift(model, data, at_end[:1].expand(2, -1, -1)).values["kl"].values
    np.testing.assert_allclose(by_position[0], kl[1], atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 9999), st.sampled_from([1e-4, 0.1, 1.0, 30.0]), st.sampled_from([0, 1, 3]))
def test_divergences_are_those_of_torch_and_scipy(seed: int, size: float, ruled_out: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(3, 9, generator=generator) * 3
    ablated = clean + size * torch.randn(3, 9, generator=generator)
    for logits in (clean, ablated):
        logits[0, :ruled_out] = -torch.inf
    log_p = clean.log_softmax(-1)
    got = divergences(log_p, log_p.exp(), ablated.log_softmax(-1))
    for row in range(3):
        kl, reverse_kl, js, *_ = expected_of(clean[row], ablated[row], None)
        p, q = (logits[row].double().softmax(-1).numpy() for logits in (clean, ablated))
        if row == 0 and ruled_out:  # torch.distributions knows no 0 log 0
            p, q = p[ruled_out:], q[ruled_out:]
            kl, reverse_kl = (float(np.sum(a * np.log(a / b))) for a, b in ((p, q), (q, p)))
        expected = [kl, reverse_kl, js]
        assert [float(one[row]) for one in got] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_support_that_one_side_lacks_and_logits_that_are_no_number() -> None:
    clean = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, 1.0, 2.0]]).log_softmax(-1)
    ablated = torch.tensor([[0.0, 0.0, 0.0], [torch.nan, 0.0, 0.0]]).log_softmax(-1)
    found = divergences(clean, clean.exp(), ablated)
    assert float(found.kl[0]) == pytest.approx(math.log(1.5))
    assert float(found.reverse_kl[0]) == math.inf
    assert float(found.js[0]) == pytest.approx(jensenshannon([0.5, 0.5, 0], [1 / 3] * 3) ** 2)
    assert all(math.isnan(float(one[1])) for one in found)


def test_float64_and_bfloat16() -> None:
    inputs = models.inputs_of("gpt2", 2)
    for dtype in (torch.float64, torch.bfloat16):
        model = models.gpt2().to(dtype)
        plain = al.MaskedModel(al.adapt(model), al.adapt(model).registry("head"))
        found = drift(plain, al.batch(inputs), {"a": "L0.head 1"}).values["kl"].values[0]
        edited = models.edited(model, [plain.registry[1]])
        p, q = (Categorical(logits=models.logits_of(one, inputs).double()) for one in (model, edited))
        np.testing.assert_allclose(found, kl_divergence(p, q).numpy(), atol=1e-6)


def test_the_table_is_means_over_positions_and_then_examples(torch_gpt2: Host) -> None:
    data = padded(ROWS, positions=0)
    found = drift(masked(torch_gpt2), data, {"a": "L0.head 1", "b": None})
    for scored_only in (False, True):
        table, rows = found.table(scored_only=scored_only), found.by_example(scored_only=scored_only)
        for name in MEASURES:
            values = found.values[name].values
            means = [np.nanmean(values[0, example][:1] if scored_only else values[0, example]) for example in range(3)]
            assert rows[name][:3].tolist() == pytest.approx(means)
            assert table[name][0] == pytest.approx(np.mean(means))
            assert table[f"{name}_se"][0] == pytest.approx(np.std(means, ddof=1) / math.sqrt(3))
        assert table["positions"].tolist() == [3 if scored_only else 10] * 2
    assert table["mask"].tolist() == ["a", "b"]
    one = drift(masked(torch_gpt2), data.take([0]), {"a": "L0.head 1"}).table()
    assert np.isnan(one["kl_se"][0])
    assert one["kl"][0] > 0


def test_what_changed_most_as_text(torch_gpt2: Host) -> None:
    data = al.batch(["fjfjh", "did", "gc"], tokenizer=Tokens("left"))
    found = drift(masked(torch_gpt2), data, {"a": "L0.head 1", "b": ["L1.head 0", "L1.head 3"]})
    table = found.changed(4)
    kl = found.values["kl"].values
    assert table["kl"].tolist() == sorted(kl[~np.isnan(kl)].tolist(), reverse=True)[:4]
    for row in table.to_dict("records"):
        at = {"mask": row["mask"], "example": row["example"], "position": row["position"]}
        one = found.values.sel(at)
        assert float(one["kl"]) == row["kl"]
        for name in ("token", "before", "after"):
            assert row[name] == Tokens().decode([int(one[name])])
    text = found.changed(1).iloc[0]
    assert text["token"] == data.tokens()[list(data.names()).index(text["example"])][text["position"]]
    assert len(found.changed(1000)) == 20
    assert len(found.changed(1000, scored_only=True)) == 14
    with pytest.raises(al.InputError, match="an integer from 1; got 0"):
        found.changed(0)


def test_classes_of_a_classifier_stay_numbers(small: Host) -> None:
    found = drift(masked(small), small.data(2), torch.zeros(1, len(masked(small).registry)))
    row = found.changed(1).iloc[0]
    assert row["token"] == ""
    assert row["before"] == str(int(found.values["before"].sel(example=row["example"]).item()))


def test_save_and_load(torch_gpt2: Host, tmp_path: Path) -> None:
    data = al.batch(["fjfjh", "did", "gc"], tokenizer=Tokens("left"))
    for masks in ({"a": "L0.head 1"}, torch.zeros(2, 8)):
        found = drift(masked(torch_gpt2), data, masks)
        back = Drift.load(found.save(tmp_path / "drift.safetensors"))
        assert back.values.identical(found.values)
        assert back.changed().equals(found.changed())
        assert back.provenance == found.provenance
        assert repr(back) == repr(found)
    with pytest.raises(al.StoreError, match="does not hold drift"):
        Drift.load(save_arrays(tmp_path / "other.safetensors", {"x": np.zeros(1)}, {"masks": []}))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.ones(2, 7), r"masks are a float or bool tensor \[draw, 8\]"),
        (al.Bernoulli(9, 0.3, 2), "a design for 8 components is needed; this one has 9"),
        ({}, "there are no masks"),
        ({"mine": torch.ones(7)}, "mask 'mine': a mask for 3 examples and 8 components"),
        ({"mine": torch.ones(8) * 2}, "mask 'mine': gates go from 0"),
    ],
)
def test_masks_that_do_not_fit(torch_gpt2: Host, masks: Any, message: str) -> None:
    with pytest.raises(al.InputError, match=message):
        drift(masked(torch_gpt2), padded(ROWS), masks)


def test_labels_outside_of_the_classes_and_a_model_that_predicts_nothing(small: Host) -> None:
    with pytest.raises(al.InputError, match="example 1, position 0 has label 5, but the logits have 5 entries"):
        drift(masked(small), al.batch(small.inputs(2), labels=torch.tensor([0, 5])), {"a": 0})
    adapter: Adapter = al.adapt(
        torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)), example=torch.ones(1, 4)
    )
    regression = al.MaskedModel(adapter, adapter.registry("row"))
    with pytest.raises(al.InputError, match="one number and no prediction"):
        drift(regression, al.batch(torch.ones(2, 4)), {"a": 0})


def test_a_label_for_each_example_belongs_to_its_scored_position() -> None:
    host = host_of("torch", "gpt2")
    found = drift(masked(host), padded(ROWS, "right", labels=[1, 2, 3]), {"a": "L0.head 1"})
    known = ~np.isnan(found.values["rank_change"].values[0])
    assert known.tolist() == [[False] * 4 + [True], [False, False, True, False, False], [False, True] + [False] * 3]
    assert known.tolist() == found.values["scored"].values.tolist()


def test_what_could_be_meant_in_two_ways_is_refused(torch_gpt2: Host) -> None:
    model, data = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head")), torch_gpt2.data(3)
    one = model.mask(off=0, positions=-1, data=data)
    with pytest.raises(al.InputError, match=r"may be 3 masks by position, or a mask for each of the 3 examples"):
        al.drift(model, data, one)
    assert al.drift(model, data, {"last": one}).values.sizes["mask"] == 1
    assert al.drift(model, data, one[:2]).values.sizes["mask"] == 2
    with pytest.raises(al.InputError, match="two masks have one name"):
        al.drift(model, data, {"1": None, 1: 0})  # pyright: ignore[reportArgumentType]
    with pytest.raises(al.InputError, match="by its name or column; got True"):
        al.drift(model, data, {"mask": [True] * len(model.registry)})
