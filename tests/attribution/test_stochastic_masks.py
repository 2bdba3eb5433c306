"""Stochastic masks as a design: they are the mode's own, whatever shares a pass with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.attribution.stochastic_masks import StochasticMasks, stochastic_masks
from ablationlens.spd import PGD, Deterministic, Stochastic
from tests.attribution.additive import padded
from tests.conftest import Host, host_of
from tests.spd.small import decomposed


def model_of(host: Host) -> al.MaskedModel:
    return al.MaskedModel(host.adapter, decomposed(host).registry(host.adapter), output=al.Logit(3))


@pytest.mark.parametrize("remainder", ["source", "kept", "dropped"])
@pytest.mark.parametrize("sampling", ["continuous", "binomial"])
def test_draw_i_is_sample_i_of_the_mode(gpt2: Host, sampling: Any, remainder: Any) -> None:
    model, data = model_of(gpt2), gpt2.data(3)
    own = decomposed(gpt2)
    mode = Stochastic(own, sampling=sampling, seed=3, remainder=remainder)
    design = StochasticMasks(mode, model, data, 5)
    theirs = Stochastic(own, 5, sampling=sampling, seed=3, remainder=remainder)
    gates = theirs.gates(gpt2.adapter, model.registry, data).numpy()
    assert np.array_equal(design.masks(0, 5), gates)
    assert np.array_equal(design.masks(3, 5), gates[3:])
    for draw in (2, 2, 1):  # one alone is kept for the next pass
        assert np.array_equal(design.masks(draw, draw + 1), gates[draw : draw + 1])
    assert np.array_equal(design.mask(4), gates[4])
    remainders = [name.endswith("remainder") for name in model.registry.names]
    assert bool((design.leeway[:, remainders] == (remainder == "source")).all())
    other = StochasticMasks(Stochastic(own, sampling=sampling, seed=4, remainder=remainder), model, data, 5)
    assert not np.array_equal(other.masks(0, 5), gates)


def test_means_are_over_the_real_positions_of_an_example(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablationlens.attribution.stochastic_masks.BLOCK_BYTES", 3 * 4 * 7 * 28)
    model = model_of(torch_gpt2)
    data = padded([[1, 2, 3, 4, 5, 6, 7], [8, 9, 10], [4]])
    design = StochasticMasks(Stochastic(decomposed(torch_gpt2)), model, data, 8)
    masks, real = design.masks(0, 8).astype(np.float64), data.attended.numpy()
    assert real.sum(1).tolist() == [7, 3, 1]
    lower = decomposed(torch_gpt2).importances(torch_gpt2.adapter, data)
    for example in range(3):
        by_hand = masks[:, example, real[example]].mean(1)
        assert np.abs(design.means(example) - by_hand).max() < 1e-12
        columns = []
        for importance in lower.values():
            away = 1 - importance[example].double().numpy()[real[example]]
            columns += [*np.sqrt((away**2).mean(0)), 1.0]
        assert np.abs(design.leeway[example] - columns).max() < 1e-7
        spread = masks[:, example, real[example]].std(0).max(0)
        assert bool((spread[design.leeway[example] == 0] == 0).all())


@pytest.mark.parametrize("held", ["torch", "transformer_lens"])
def test_outputs_are_those_of_the_models_own_call_whatever_shares_a_pass(held: str) -> None:
    host = host_of(held, "llama")
    model, data = model_of(host), host.data(5)
    mode = Stochastic(decomposed(host), seed=9)
    design = StochasticMasks(mode, model, data, 6)
    gates = Stochastic(decomposed(host), 6, seed=9).gates(host.adapter, model.registry, data)
    expected = torch.stack([model(one, data) for one in gates])
    assert float(expected.std(0).min()) > 1e-4
    for rows in (1, 2, 5, 12, 100):
        assert float((model.sweep(design, data, rows=rows) - expected).abs().max()) < 1e-5
    found = [al.coar(model, data, design=mode, draws=40, rows=rows).weights.values for rows in (2, 15, 15)]
    assert np.abs(found[0] - found[1]).max() < 1e-4 * np.abs(found[0]).max()
    assert np.array_equal(found[1], found[2])


def test_a_model_without_positions_has_a_mask_for_each_example(small: Host) -> None:
    model, data = model_of(small), small.data(4)
    design = StochasticMasks(Stochastic(decomposed(small), seed=2), model, data, 3)
    gates = Stochastic(decomposed(small), 3, seed=2).gates(small.adapter, model.registry, data).numpy()
    assert gates.shape == (3, 4, len(model.registry))
    assert np.array_equal(design.masks(0, 3), gates)
    assert np.array_equal(design.means(2), gates[:, 2].astype(np.float64))


def test_what_does_not_fit_is_refused_with_the_line_to_type(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    own, model, data = decomposed(torch_gpt2), model_of(torch_gpt2), torch_gpt2.data(2)
    other = decomposed(torch_gpt2, seed=1)
    heads = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"), output=al.Logit(3))
    some = own.registry(torch_gpt2.adapter).parts[0]
    partial = al.MaskedModel(torch_gpt2.adapter, al.Registry([(some.site, some.indices)]), output=al.Logit(3))
    mode = Stochastic(own)
    based, averaged = model.having(base=Deterministic(own)), model.having(ablation=al.Mean(data))

    def run(*args: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(torch_gpt2.adapter, "run", run)
    line = r"al\.coar\(model, data, design=al\.spd\.Stochastic\(decomposition, seed=0\), draws=\.\.\.\)"
    registry = r"al\.MaskedModel\(adapter, decomposition\.registry\(adapter\), output=\.\.\.\)"
    cases: list[tuple[al.MaskedModel, dict[str, Any], str]] = [
        (model, {"design": mode, "alpha": 0.1}, f"alpha=0.1 says nothing.*{line}"),
        (model, {"design": mode, "seed": 0}, f"seed=0 says nothing.*the seed is the mode's.*{line}"),
        (model, {"design": Stochastic(own, 3)}, f"n_samples=3.*{line}"),
        (based, {"design": mode}, r"no base: al\.MaskedModel\(model\.adapter, model\.registry"),
        (averaged, {"design": mode}, r"model\.having\(ablation=al\.Zero\(\)\)"),
        (heads, {"design": mode}, registry),
        (partial, {"design": mode}, registry),
        (model, {"design": Stochastic(other)}, registry),
        (model, {"design": mode, "draws": 28, "solver": "least_squares"}, "29"),
        (model, {"design": mode, "draws": 9}, "10"),
        (model, {"design": mode, "draws": 0}, "positive number"),
        (model, {"design": mode, "draws": 40.5}, "draws is an integer|Expected type: <class 'int'>"),
        (model, {"design": mode, "solver": "elastic"}, "ridge.*least_squares.*lasso"),
        (model, {}, r"alpha is the share.*al\.coar\(model, data, alpha=0\.05"),
        (model, {"design": Stochastic}, "bernoulli.*subset.*balanced"),
    ]
    for masked, options, match in cases:
        with pytest.raises((al.InputError, TypeError), match=match):  # beartype sees some of them first in the tests
            al.coar(masked, data, **{"draws": 40, **options})
    for other_mode in (Deterministic(own), PGD(own)):
        with pytest.raises(al.InputError, match=f"{type(other_mode).__name__} has nothing to draw.*{line}"):
            stochastic_masks(model, data, other_mode, 40, {})
