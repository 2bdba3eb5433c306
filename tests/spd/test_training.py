"""Training a decomposition: what a step minimises, that it gets there, and what it leaves of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

import ablationlens as al
from ablationlens.spd import Ascent, Decomposition, Faithfulness, Minimality, Reconstruction, train
from ablationlens.spd.forward import GatedModel, Gates
from tests import models
from tests.conftest import Host, host_of
from tests.spd.small import logits_under
from tests.spd.test_forward import state

STILL = 1e-30
"""A learning rate at which nothing moves, so that what is returned is what the step saw."""


def examples(host: Host) -> Callable[[int], al.Batch]:
    return lambda step: host.data(8, seed=step)


def learn(host: Host, **options: Any) -> Decomposition:
    settings: dict[str, Any] = {"steps": 3, "warmup": 5, "hidden": (4,), "show_bar": False}
    if host.transformer:
        settings |= {"modules": ["q", "mlp.out"], "layers": [1]}
    settings |= options
    modules = settings.pop("modules", None)
    data, n_components = settings.pop("data", examples(host)), settings.pop("n_components", 6)
    adapter = settings.pop("adapter", host.adapter)
    return train(adapter, modules, n_components, data, **settings)


def llama() -> Host:
    return host_of("torch", "llama")


# --- what it comes to -------------------------------------------------------------------------------------------------


def test_losses_fall_on_a_perceptron(small: Host) -> None:
    losses = (Faithfulness(), Minimality(0.01, p=1.0, p_end=0.7), Reconstruction(), Reconstruction(routing="layerwise"))
    found = learn(small, n_components=16, steps=80, losses=losses, output="mse", learning_rate=1e-2, warmup=150)
    history = found.history
    assert list(history.columns[:5]) == ["step", "loss", "faithfulness", "minimality", "stochastic_all"]
    assert history["step"].iloc[0] == 1
    assert history["step"].iloc[-1] == 80
    first, last = history.iloc[:3].mean(), history.iloc[-3:].mean()
    assert last["loss"] < 0.8 * first["loss"]
    assert last["stochastic_layerwise"] < 0.8 * first["stochastic_layerwise"]
    assert 0 < float(history["L0/0.first"].iloc[-1]) < 16
    assert float(found.reconstruction(small.adapter)["relative"].max()) < 0.5


def test_losses_fall_on_a_language_model() -> None:
    found = learn(llama(), n_components=40, steps=40, learning_rate=3e-3, warmup=60)
    first, last = found.history.iloc[:3].mean(), found.history.iloc[-3:].mean()
    assert last["loss"] < 0.8 * first["loss"]
    assert found.places == ((1, "attn.q"), (1, "mlp.out"))
    assert set(found.history) >= {"L0/1.attn.q", "L0/1.mlp.out", "stochastic_layerwise"}


def test_what_comes_back_is_at_rest_and_says_where_it_is_from(small: Host) -> None:
    found = learn(small)
    assert not found.training
    assert all(not one.requires_grad and one.grad is None for one in found.parameters())
    assert found.provenance["method"] == "spd"
    assert found.provenance["recipe"]["steps"] == 3
    assert found.provenance["model"]["fingerprint"] == small.adapter.describe()["fingerprint"]
    found.importances(small.adapter, small.data(2))


@pytest.mark.parametrize("held", ["transformer_lens", "nnsight"])
def test_every_host_learns_the_same(held: str) -> None:
    there, here = learn(host_of(held, "llama")), learn(llama())
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        assert models.close(ours, theirs, 1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_dtypes_are_decomposed_in_float32(dtype: torch.dtype) -> None:
    adapter = al.adapt(models.llama().to(dtype))
    found = learn(llama(), adapter=adapter)
    assert {one.dtype for one in found.parameters()} == {torch.float32}
    assert all(math.isfinite(value) for value in found.history["loss"])


def test_shared_functions_need_no_hidden_layer(small: Host) -> None:
    found = learn(small, importance="shared_mlp", hidden=[])
    assert all(len(list(part.function.parameters())) == 2 for _, part in found.items())


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_the_seed_decides_everything(small: Host) -> None:
    before = torch.get_rng_state()
    losses = (Minimality(), Reconstruction(routing="subset"), Reconstruction(adversary=Ascent(1, 1.0)))
    first = learn(small, losses=losses, data=small.data(20), rows=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    with torch.inference_mode():
        second = learn(small, losses=losses, data=small.data(20), rows=4)
    assert first.fingerprint == second.fingerprint
    assert first.history.equals(second.history)
    assert learn(small, losses=losses, data=small.data(20), rows=4, seed=1).fingerprint != first.fingerprint


def test_no_two_steps_or_losses_share_their_random_numbers(small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = gates_seen(monkeypatch)
    losses = (Reconstruction(routing="subset"), Reconstruction(routing="subset"))
    learn(small, losses=losses, data=small.data(1), rows=16, steps=2, learning_rate=STILL, seed=0)
    learn(small, losses=losses, data=small.data(1), rows=16, steps=2, learning_rate=STILL, seed=1)
    chosen = [torch.stack([own.remainder[:, 0] == 1 for own in one.values()]) for one in seen]
    kept = [next(iter(one.values())).remainder for one in seen]
    assert len(seen) == 8
    for number, other in [(a, b) for a in range(8) for b in range(a)]:
        assert not torch.equal(chosen[number], chosen[other])
        both = (kept[number] < 1) & (kept[other] < 1)
        assert not bool((kept[number][both] == kept[other][both]).any())


# --- what a step minimises -------------------------------------------------------------------------------------------


def gates_seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[Any, Gates]]:
    """The gates of every pass that is run under gates."""
    seen: list[dict[Any, Gates]] = []
    plain = GatedModel._edits

    def noting(self: GatedModel, gates: Mapping[Any, Gates]) -> Any:
        if gates:
            seen.append({where: Gates(*(one.detach().clone() for one in own)) for where, own in gates.items()})
        return plain(self, gates)

    monkeypatch.setattr(GatedModel, "_edits", noting)
    return seen


def kl(host: Host, decomposition: Decomposition, gates: Any, inputs: Tensor) -> Tensor:
    """[example], with modules added up component by component."""
    ours, theirs = logits_under(host.reference, decomposition, gates, inputs), models.logits_of(host.reference, inputs)
    return kl_divergence(Categorical(logits=theirs), Categorical(logits=ours)).mean(1)


@pytest.mark.parametrize("routing", ["all", "layerwise", "subset"])
@pytest.mark.parametrize("remainder", [True, False])
def test_a_stochastic_step_is_what_modules_added_up_diverge_by(
    routing: str, remainder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, seen = llama(), gates_seen(monkeypatch)
    loss = Reconstruction(2.0, routing=routing, remainder=remainder)
    found = learn(host, losses=(loss,), steps=1, learning_rate=STILL)
    seen = seen[1:] if routing == "layerwise" else seen  # the first pass lays the hooks of all modules
    assert [len(one) for one in seen] == ([1, 1] if routing == "layerwise" else [2])
    expected = torch.stack([kl(host, found, one, host.inputs(8, seed=0)) for one in seen]).mean()
    assert found.history[loss.name][0] == pytest.approx(2 * float(expected), rel=1e-4)
    assert float(expected) > 1e-3
    importances = found.importances(host.adapter, host.data(8, seed=0))
    for one in seen:
        for where, own in one.items():
            assert bool((own.parts >= importances[where] - 1e-6).all())
            assert bool((own.parts <= 1).all())
            kept = (own.parts == 1).all(-1, keepdim=True) & (own.remainder == 1)
            assert bool(kept.any()) == (routing == "subset")
            assert bool((own.remainder[~kept] > 0).any()) == remainder


@pytest.mark.parametrize("scope", ["example", "shared"])
@pytest.mark.parametrize("routing", ["all", "subset"])
def test_an_adversarial_step_is_the_worst_that_its_ascent_met(
    scope: str, routing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, seen = llama(), gates_seen(monkeypatch)
    loss = Reconstruction(routing=routing, adversary=Ascent(3, 0.4, scope), start="random")
    found = learn(host, losses=(loss,), steps=1, learning_rate=STILL)
    assert len(seen) == 5  # the start, three steps, and once more with a graph
    each = torch.stack([kl(host, found, one, host.inputs(8, seed=0)) for one in seen])
    assert found.history[loss.name][0] == pytest.approx(float(each[-1].mean()), rel=1e-4)
    worst = each[:-1].max(0).values if scope == "example" else each[each[:-1].sum(1).argmax()]
    assert models.close(each[-1], worst, 1e-4)
    assert float(each[-1].mean()) > float(each[0].mean())
    if routing == "subset":  # the same positions are gated at every step
        routes = [
            torch.stack([(own.remainder == 1) & (own.parts == 1).all(-1, True) for own in one.values()]) for one in seen
        ]
        assert all(torch.equal(routes[0] & one, routes[0]) for one in routes)


def test_an_adversarial_loss_teaches_importances_and_factors() -> None:
    found = learn(llama(), losses=(Minimality(), Reconstruction(adversary=Ascent(1, 1.0))), steps=2)
    begun = learn(
        llama(), losses=(Minimality(), Reconstruction(adversary=Ascent(1, 1.0))), steps=2, learning_rate=STILL
    )
    for ours, before in zip(found.parameters(), begun.parameters(), strict=True):
        assert not torch.equal(ours, before)


def test_padding_counts_neither_as_important_nor_as_diverging() -> None:
    host = llama()
    ids = host.inputs(4)
    mask = torch.ones_like(ids)
    mask[1:, 3:] = 0
    data = al.batch({"input_ids": ids, "attention_mask": mask})
    found = learn(
        host,
        data=lambda step: data,
        steps=1,
        learning_rate=STILL,
        sigmoid="hard",
        losses=(Minimality(), Reconstruction()),
    )
    importances = found.importances(host.adapter, data)
    real = mask.bool()
    expected = sum(float(one[real].double().sum(1).mean()) for one in importances.values())
    assert found.history["minimality"][0] == pytest.approx(3e-3 * expected, rel=1e-4)
    for (layer, module), one in importances.items():
        count = float((one[real] > 0.1).float().sum(1).mean())
        assert found.history[f"L0/{layer}.{module}"][0] == pytest.approx(count, rel=1e-5)


def test_the_learning_rate_falls_along_half_a_cosine(small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    plain = torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return plain(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    learn(small, steps=8, warmup=0, learning_rate=0.01)
    assert rates == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])


def test_data_in_one_batch_is_drawn_from_and_a_function_is_asked_for_each_step(small: Host) -> None:
    asked: list[int] = []

    def data(step: int) -> al.Batch:
        asked.append(step)
        return small.data(3)

    learn(small, data=data, steps=4)
    assert asked == [0, 1, 2, 3]
    learn(small, data=small.data(2), rows=5)  # more rows than examples


# --- what it leaves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("held", ["torch", "transformer_lens", "nnsight"])
def test_spd_requirement_27_the_model_is_as_it_was(held: str, fails: bool) -> None:
    host = host_of(held, "llama")
    adapter = al.adapt(host.fresh())
    model = models.module_in(adapter.model)
    model.train()
    next(iter(model.parameters())).requires_grad_(False)
    before, weights = state(model), [one.detach().clone() for one in model.parameters()]

    def data(step: int) -> al.Batch:
        if fails and step == 2:
            raise KeyboardInterrupt
        return host.data(4, seed=step)

    try:
        learn(host, adapter=adapter, data=data)
        assert not fails
    except KeyboardInterrupt:
        assert fails
    assert state(model) == before
    assert all(torch.equal(one, kept) for one, kept in zip(model.parameters(), weights, strict=True))


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_training(small: Host) -> None:
    def data(step: int) -> al.Batch:
        return al.batch(torch.full((2, 10), 1e38 if step == 1 else 1.0))

    with pytest.raises(
        al.InputError, match=r"the loss is not finite at step 2 \(.*stochastic_all .*lower learning_rate"
    ):
        learn(small, data=data, output="mse")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ["attn.x"]}, "attn.x"),
        ({"modules": ["qkv"]}, "qkv"),
        ({"layers": [9]}, "no layer 9"),
        ({"n_components": 0}, "n_components of 'attn.q' is a whole number from 1; got 0"),
        ({"n_components": 2.5}, "n_components of 'attn.q' is a whole number"),
        ({"n_components": {"q": 4}}, "n_components of 'mlp.out' is a whole number from 1; got None"),
        ({"n_components": {"q": 4, "nothing": 3}}, "nothing"),
        ({"losses": ()}, r"losses are Faithfulness\(\), Minimality\(\) and Reconstruction\(\)"),
        ({"losses": ("mse",)}, "losses are Faithfulness"),
        ({"losses": Minimality()}, r"add al.spd.Reconstruction\(\)"),
        ({"losses": (Faithfulness(), Minimality())}, "nothing ties importances to what the model does"),
        ({"output": "js"}, "output is 'kl'"),
        ({"steps": 0}, "steps is a whole number from 1; got 0"),
        ({"steps": 2.0}, "steps is a whole number from 1"),
        ({"rows": 0}, "rows is a whole number from 1"),
        ({"warmup": -1}, "warmup is a number of steps from 0"),
        ({"learning_rate": 0.0}, "learning_rate is above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is above 0"),
        ({"seed": -1}, "seed is a whole number from 0; got -1"),
        ({"seed": 0.5}, "seed is a whole number"),
        ({"hidden": ()}, "needs a hidden layer"),
        ({"hidden": 16}, "hidden and losses are several"),
        ({"hidden": (0,)}, "whole numbers from 1"),
        ({"importance": "gru"}, "no importance function 'gru'"),
        ({"sigmoid": "soft"}, "no sigmoid 'soft'"),
        ({"every": 0}, "every is a number of steps from 1; got 0"),
        ({"data": "texts"}, "data is a Batch, al.batch"),
        ({"data": lambda step: [[1, 2]]}, "data gives a Batch for each step"),
        ({"data": al.batch(torch.full((2, 7), 99))}, "99"),
        ({"data": lambda step: al.batch(torch.full((2, 7), 99))}, "99"),
    ],
)  # fmt: skip
def test_bad_input(options: Any, message: str) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{message}|type"):  # beartype may be first
        learn(llama(), **options)


def test_components_by_name() -> None:
    found = learn(llama(), n_components={"q": 3, "mlp.out": 5}, steps=1)
    assert [part.components for _, part in found.items()] == [3, 5]


def test_a_progress_bar_shows_the_losses(small: Host, capsys: pytest.CaptureFixture[str]) -> None:
    learn(small, show_bar=True)
    shown = capsys.readouterr().err
    assert "SPD" in shown
    assert "minimality=" in shown
    assert "L0/" not in shown
