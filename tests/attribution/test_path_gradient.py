"""Path gradient: against single backward passes, one mask at a time, and against what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ablationlens as al
from tests import models
from tests.conftest import HOSTS, Host, host_of


def scalar(logits: torch.Tensor) -> torch.Tensor:
    return logits.flatten(1)[:, ::3].double().sin().sum(1)


@pytest.mark.parametrize("holder", HOSTS)
@pytest.mark.parametrize(("kind", "ablation"), [("head", "zero"), ("head", "counterfactual"), ("rank_one", "zero")])
def test_with_one_gate_on_the_path_it_is_exact_for_any_model(holder: str, kind: str, ablation: str) -> None:
    """The oracle: E[f | gate kept] - E[f | gate ablated], over all masks there are."""
    host = host_of(holder, "gpt2")
    registry = (
        host.registry("head")
        if kind == "head"
        else host.adapter.registry("rank_one", layers=[0], modules=["mlp.in"], svd=4)
    )
    data, width, draws, alpha = host.data(3), len(registry), 1500, 0.4
    one = al.Zero() if ablation == "zero" else al.Counterfactual(data.like(host.inputs(3, seed=5)))
    model = al.MaskedModel(host.adapter, registry, one, output=scalar)
    found = al.path_gradient(model, data, alpha=alpha, draws=draws, rho=1 / width, seed=2)
    everything = al.AllMasks(width)
    outputs = model.sweep(everything, data).double().numpy()
    hard = everything.masks(0, everything.draws)
    chance = np.where(hard, 1 - alpha, alpha).prod(1)
    truth = np.empty((3, width))
    for gate in range(width):
        kept, off = hard[:, gate], ~hard[:, gate]
        truth[:, gate] = (chance[kept] @ outputs[kept]) / (1 - alpha) - (chance[off] @ outputs[off]) / alpha
    assert found.errors is not None
    z = (found.weights.values - truth) / np.maximum(found.errors.values, 1e-6)
    assert np.abs(z).max() < 5
    assert np.corrcoef(found.weights.values.ravel(), truth.ravel())[0, 1] > 0.97
    slopes = al.path_gradient(model, data, alpha=0.02, draws=5).weights.values  # about the gradient at all kept
    assert np.abs(slopes - truth).max() > 4 * np.abs(found.weights.values - truth).max()


def test_packing_changes_nothing_and_the_seed_decides(small: Host) -> None:
    data = small.data(3)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=scalar)
    first, packed = (
        al.path_gradient(model, data, alpha=0.1, draws=30, seed=4, rows=rows).weights.values for rows in (2, 64)
    )
    assert np.abs(first - packed).max() < 1e-5 * max(1.0, np.abs(first).max())
    other = al.path_gradient(model, data, alpha=0.1, draws=30, seed=5).weights.values
    assert np.abs(first - other).max() > 1e-4


def test_it_says_what_it_did(gpt2: Host, tmp_path: Path) -> None:
    data = gpt2.data(3)
    registry = gpt2.registry("row")
    model = al.MaskedModel(gpt2.adapter, registry, output=scalar)
    found = al.path_gradient(model, data, alpha=0.1, draws=40, rho=0.1, seed=3)
    said = found.provenance
    assert (said["method"], said["alpha"], said["draws"], said["rho"], said["seed"]) == (
        "path gradient",
        0.1,
        40,
        0.1,
        3,
    )
    assert said["masks"]["design"] == "paths" and said["masks"]["groups"] == 10
    assert all(0 <= share <= 1 for share in said["shrinkage"].values())
    assert np.allclose(said["full_output"], model(model.mask(), data).detach().numpy(), atol=1e-4)
    assert found.errors is not None and (found.errors.values >= 0).all()
    again = al.Attribution.load(found.save(tmp_path / "a.safetensors"))
    assert again.errors is not None and np.array_equal(again.errors.values, found.errors.values)
    table = found.table()
    row = table.iloc[0]
    column = registry.column(row["component"])
    assert row["error"] == pytest.approx(np.sqrt((found.errors.values[:, column] ** 2).sum()) / 3)
    scores = al.evaluate(model, data, found, alphas=[0.1], draws=20)  # its soft masks are no hard ones to leave out
    assert scores.overlap == {0.1: 0}


def test_outputs_that_are_not_finite_are_left_out(small: Host) -> None:
    data = small.data(3)
    registry = small.registry("row")
    plain = al.MaskedModel(small.adapter, registry, output=scalar)
    values = plain.sweep(torch.from_numpy(al.Paths(len(registry), 0.1, 25, 1).masks(0, 25)), data)
    worst = float(values[11, 1])

    def spoiled(logits: torch.Tensor) -> torch.Tensor:
        value = scalar(logits)
        return torch.where((value - worst).abs() < 1e-6, torch.nan, value)

    found = al.path_gradient(al.MaskedModel(small.adapter, registry, output=spoiled), data, alpha=0.1, draws=25, seed=1)
    assert found.provenance["quarantined_outputs"] == 1
    assert np.isfinite(found.weights.values).all() and np.isfinite(found.bias.values).all()
    clean = al.path_gradient(plain, data, alpha=0.1, draws=25, seed=1)
    assert np.array_equal(found.weights.values[0], clean.weights.values[0])
    assert not np.array_equal(found.weights.values[1], clean.weights.values[1])


def test_h_is_another_way_to_say_rho(small: Host) -> None:
    data = small.data(2)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=scalar)
    by_rho = al.path_gradient(model, data, alpha=0.2, draws=20, rho=0.2)
    by_h = al.path_gradient(model, data, alpha=0.2, draws=20, h=0.1)
    assert np.array_equal(by_rho.weights.values, by_h.weights.values)
    assert not np.array_equal(by_rho.weights.values, al.path_gradient(model, data, alpha=0.2, draws=20).weights.values)


def test_wrong_input(small: Host) -> None:
    data = small.data(2)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=scalar)
    for options, words in (
        ({"alpha": 0.0, "draws": 5}, "between 0 and 1"),
        ({"alpha": 0.1, "draws": 0}, "positive number"),
        ({"alpha": 0.1, "draws": 5, "rho": 0.3}, "at most 2 \\* alpha = 0.2"),
        ({"alpha": 0.1, "draws": 5, "h": 0.1}, "h is the share"),
        ({"alpha": 0.1, "draws": 5, "h": 0.05, "rho": 0.2}, "rho is 0.1"),
    ):
        with pytest.raises(al.InputError, match=words):
            al.path_gradient(model, data, **options)
    flat = al.MaskedModel(small.adapter, small.registry("row"), output=lambda logits: scalar(logits).detach())
    with pytest.raises(al.InputError, match="no gradient"):
        al.path_gradient(flat, data, alpha=0.1, draws=5)


def test_nothing_of_it_stays_with_the_model() -> None:
    model = models.gpt2()
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    adapter = al.adapt(model)
    data = al.batch(models.inputs_of("gpt2", 2))
    al.path_gradient(al.MaskedModel(adapter, adapter.registry("head"), output=scalar), data, alpha=0.3, draws=6)
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
