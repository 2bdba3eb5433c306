"""PGD that goes on under each mask, against an ascent written out here, on modules computed component by component."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.masks.base import Base
from ablationlens.masks.gating import Gated
from ablationlens.spd import PGD, Decomposition, Deterministic
from ablationlens.sweep import Sweep
from tests import models
from tests.conftest import HOSTS, Host, host_of
from tests.spd.small import COUNT, decomposed

STEPS, SIZE, MORE = 3, 0.2, 4
LANGUAGE = [(host, name) for host in HOSTS for name in ("gpt2", "llama")]


def adversary(host: Host, *, seed: int = 0, again: bool = True, **options: Any) -> PGD:
    more = {"reoptimise": True, "reoptimise_steps": MORE} if again else {}
    return PGD(decomposed(host, seed=seed), STEPS, SIZE, seed=seed, **more, **options)


def masked(host: Host, base: Base, *, heads: bool = False, output: Any = None) -> al.MaskedModel:
    registry = host.adapter.registry("head") if heads else decomposed(host).registry(host.adapter)
    if not heads and isinstance(base, PGD):
        registry = base.decomposition.registry(host.adapter)
    return al.MaskedModel(host.adapter, registry, output=al.KL() if output is None else output, base=base)


def examples_of(host: Host, count: int, seed: int = 0) -> al.Batch:
    """Examples all of whose positions are scored, so that `al.KL` is what the ascent makes large."""
    inputs = host.inputs(count, seed)
    return al.batch(inputs, labels=torch.zeros_like(inputs))


def alphas(count: int, draws: int, seed: int = 0) -> Tensor:
    """Masks with a third ablated, and some values between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(draws, count, generator=generator) > 0.3).float()
    mask[:, ::5] *= torch.rand(draws, mask[:, ::5].shape[1], generator=generator)
    return mask


class ByHand:
    """The model in float64, its decomposed modules added up from gated components, its heads multiplied by a mask."""

    def __init__(self, host: Host, decomposition: Decomposition, mask: Tensor, *, heads: bool) -> None:
        self.host, self.decomposition, self.mask = host, decomposition, mask.double()
        self.model = copy.deepcopy(host.reference).double()
        self.gates: dict[Any, tuple[Tensor, Tensor]] = {}
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        for where in decomposition.places:
            module, rows = models.module_of(self.model, *where)
            module.register_forward_hook(self._instead(where, rows))
        for layer in range(2 if heads else 0):
            module, _ = models.module_of(self.model, layer, "attn.o")
            module.register_forward_pre_hook(self._silenced(layer))

    def _instead(self, where: Any, rows: slice) -> Any:
        weight, bias = models.part(self.model, *where)
        V, U = (one.detach().double() for one in (self.decomposition[where].V, self.decomposition[where].U))

        def instead(_: Any, args: Any, out: Tensor) -> Tensor:
            parts, remainder = self.gates[where]
            x = args[0]
            found = ((x @ V) * parts) @ U + remainder * (x @ (weight - (V @ U).T).T)
            found = found if bias is None else found + bias
            return torch.cat([out[..., : rows.start or 0], found, out[..., (rows.start or 0) + found.shape[-1] :]], -1)

        return instead

    def _silenced(self, layer: int) -> Any:
        def silence(_: Any, args: Any) -> Any:
            of_layer = self.mask[..., layer * models.HEADS : (layer + 1) * models.HEADS]
            wide = of_layer.repeat_interleave(models.WIDTH // models.HEADS, dim=-1)
            return (args[0] * (wide if wide.ndim == 3 else wide[:, None]), *args[1:])

        return silence

    def loss(self, sources: dict[Any, Tensor], lower: Any, kept: Any, inputs: Tensor, clean: Tensor) -> Tensor:
        """KL of each example, a mean over positions; its gates are (ci + (1 - ci) s) times what the mask keeps."""
        for where, source in sources.items():
            gates = torch.cat([lower[where] + (1 - lower[where]) * source[..., :-1], source[..., -1:]], dim=-1)
            gates = gates * kept[where]
            self.gates[where] = gates[..., :-1], gates[..., -1:]
        ours = self.model(inputs).logits.log_softmax(-1)
        return (clean.exp() * (clean - ours)).sum(-1).mean(1)

    def worst(self, sources: dict[Any, Tensor], lower: Any, kept: Any, inputs: Tensor, steps: int) -> list[Tensor]:
        """The losses of all iterates, [example] each, from an ascent of the gradient's sign."""
        clean = models.logits_of(self.host.reference, inputs).double().log_softmax(-1)
        found: list[Tensor] = []
        for step in range(steps + 1):
            moving = {where: one.clone().requires_grad_() for where, one in sources.items()}
            loss = self.loss(moving, lower, kept, inputs, clean)
            found.append(loss.detach())
            if step < steps:
                slopes = torch.autograd.grad(loss.sum(), list(moving.values()))
                sources = {
                    where: (one + SIZE * slope.sign()).clamp(0, 1)
                    for (where, one), slope in zip(sources.items(), slopes, strict=True)
                }
        return found


def traces(
    host: Host, base: PGD, mask: Tensor, *, heads: bool = False, examples: int = 3, seed: int = 0
) -> list[Tensor]:
    """The losses on the way for each example under one mask, by hand."""
    decomposition, data = base.decomposition, examples_of(host, examples, seed)
    lower = decomposition.importances(host.adapter, data)
    sources = base.search(host.adapter, data, lower).sources
    rows = mask if mask.ndim == 3 else mask.expand(examples, -1)[:, None]
    registry, kept = decomposition.registry(host.adapter), dict[Any, Any]()
    for part in registry.parts:
        where = (part.site.layer, part.site.module)
        kept[where] = torch.ones(()) if heads else rows[..., part.start : part.stop].double()
    hand = ByHand(host, decomposition, mask if mask.ndim == 3 else mask.expand(examples, -1), heads=heads)
    wide = ({at: one.double() for at, one in held.items()} for held in (sources, lower))
    return hand.worst(*wide, kept, host.inputs(examples, seed), MORE)


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
@pytest.mark.parametrize("heads", [False, True], ids=["rank_one", "heads"])
def test_outputs_are_those_of_the_worst_sources_that_an_ascent_under_the_mask_meets(
    held: str, name: str, heads: bool
) -> None:
    host = host_of(held, name)
    base, data = adversary(host), examples_of(host, 3)
    model = masked(host, base, heads=heads)
    before = masked(host, adversary(host, again=False), heads=heads)
    masks = alphas(len(model.registry), 3)
    found = model.sweep(masks, data)
    for mask, outputs in zip(masks, found, strict=True):
        steps = torch.stack(traces(host, base, mask[None], heads=heads))
        assert models.close(outputs.double(), steps.max(0).values, 2e-4)
        assert bool((outputs.double() > steps[0] + 1e-3).all())  # far more than rounding
    assert torch.allclose(before.sweep(masks, data)[-1].double(), steps[0], atol=1e-5)


def test_ascents_under_masks_by_position(torch_gpt2: Host) -> None:
    base, data = adversary(torch_gpt2), examples_of(torch_gpt2, 3)
    for heads in (False, True):
        model = masked(torch_gpt2, base, heads=heads)
        mask = alphas(7 * len(model.registry), 3, seed=1).unflatten(1, (7, -1))
        steps = torch.stack(traces(torch_gpt2, base, mask, heads=heads))
        assert models.close(model(mask, data).double(), steps.max(0).values, 2e-4)
        assert bool((steps.max(0).values > steps[0] + 1e-3).all())


@pytest.mark.parametrize("seed", range(3))
def test_nothing_found_is_less_bad_than_what_it_began_with(seed: int, torch_gpt2: Host) -> None:
    data = examples_of(torch_gpt2, 4, seed)
    for heads in (False, True):
        again = masked(torch_gpt2, adversary(torch_gpt2, seed=seed), heads=heads)
        once = masked(torch_gpt2, adversary(torch_gpt2, seed=seed, again=False), heads=heads)
        masks = alphas(len(again.registry), 6, seed)
        found, begun = again.sweep(masks, data), once.sweep(masks, data)
        assert bool((found >= begun - 1e-6).all())
        assert float((found > begun + 1e-4).float().mean()) > 0.9


def test_the_best_is_kept_where_large_steps_lead_away_from_it(torch_gpt2: Host) -> None:
    data, decomposition = examples_of(torch_gpt2, 4), decomposed(torch_gpt2)
    masks = alphas(len(decomposition.registry(torch_gpt2.adapter)), 5)
    models_of = [PGD(decomposition, 2, 1.0, reoptimise=True, reoptimise_steps=n) for n in (1, 2, 5)]
    losses = [masked(torch_gpt2, base).sweep(masks, data, rows=20) for base in models_of]
    assert bool((losses[1] >= losses[0] - 1e-6).all())
    assert bool((losses[2] >= losses[1] - 1e-6).all())


@pytest.mark.parametrize("heads", [False, True], ids=["rank_one", "heads"])
def test_a_mask_that_keeps_everything_is_the_baseline_to_the_last_bit(heads: bool, torch_gpt2: Host) -> None:
    data = examples_of(torch_gpt2, 3)
    again, once = (masked(torch_gpt2, adversary(torch_gpt2, again=one), heads=heads) for one in (True, False))
    masks = torch.cat([torch.ones(2, len(again.registry)), alphas(len(again.registry), 2)])[[0, 2, 1, 3]]
    found, begun = again.sweep(masks, data, rows=12), once.sweep(masks, data, rows=12)  # one pass
    assert torch.equal(found[[0, 2]], begun[[0, 2]])
    assert not torch.equal(found[[1, 3]], begun[[1, 3]])
    assert torch.equal(again(again.mask(), data), once(once.mask(), data))
    assert torch.equal(again.logits(again.mask(), data), once.logits(once.mask(), data))
    assert torch.equal(again.sweep_gradient(masks[:1], data), once.sweep_gradient(masks[:1], data))


class Found(Base):
    """Gates that were found, for one model."""

    def __init__(self, gates: Tensor, decomposition: Decomposition) -> None:
        self.found, self.decomposition = gates, decomposition

    def behind(self, adapter: al.Adapter, registry: al.Registry) -> al.Registry | None:
        return Deterministic(self.decomposition).behind(adapter, registry)

    def gates(self, adapter: al.Adapter, registry: al.Registry, data: al.Batch) -> Tensor:
        return self.found[None]

    def describe(self) -> dict[str, Any]:
        return {"base": "found"}


def under(model: al.MaskedModel, mask: Tensor, data: al.Batch) -> al.MaskedModel:
    """The model with the gates that are found under one mask, as constants."""
    bound = model.bind(data)
    settled = model.settled(mask, bound.data, bound.under(0), model.reference(bound))
    assert isinstance(settled, Gated)
    assert not settled.gates.requires_grad
    assert isinstance(model.base, PGD)
    return model.having(base=Found(settled.gates, model.base.decomposition))


@pytest.mark.parametrize("heads", [False, True], ids=["rank_one", "heads"])
def test_everything_that_is_measured_is_measured_under_the_sources_that_were_found(
    heads: bool, torch_gpt2: Host
) -> None:
    data = examples_of(torch_gpt2, 3)
    model = masked(torch_gpt2, adversary(torch_gpt2), heads=heads)
    mask = alphas(len(model.registry), 1)
    fixed = under(model, mask, data)
    assert models.close(model.sweep(mask, data), fixed.sweep(mask, data))
    assert models.close(model.logits(mask, data), fixed.logits(mask, data))
    assert models.close(model.sweep_gradient(mask, data), fixed.sweep_gradient(mask, data), 1e-4)
    own = mask.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(own, data).sum(), own)
    assert models.close(slope, fixed.sweep_gradient(mask, data).sum(0)[None], 1e-4)
    pair = (
        torch.distributions.Categorical(logits=one.logits(one.mask() * own, data))
        for one, own in ((model, torch.ones(())), (fixed, mask))
    )
    expected = torch.distributions.kl_divergence(*pair)
    assert np.allclose(al.drift(model, data, mask).values["kl"].values[0], expected.detach().numpy(), atol=1e-5)
    patterns = [al.attention_patterns(one, data, mask).values for one in (model, fixed)]
    assert np.allclose(*patterns, atol=1e-5)
    plain = masked(torch_gpt2, adversary(torch_gpt2, again=False), heads=heads)
    assert np.abs(patterns[0] - al.attention_patterns(plain, data, mask).values).max() > 1e-3


def test_methods_take_it(torch_gpt2: Host) -> None:
    data = examples_of(torch_gpt2, 2)
    model = masked(torch_gpt2, adversary(torch_gpt2), heads=True)
    alone, coar = al.leave_one_out(model, data), al.coar(model, data, alpha=0.3, draws=40)
    path = al.path_gradient(model, data, alpha=0.3, draws=20)
    scores = al.evaluate(model, data, {"loo": alone, "coar": coar, "path": path}, alphas=[0.3], draws=20)
    assert np.isfinite(scores.table()["pearson"]).all()
    for one in (alone, coar, path):
        assert one.provenance["base"]["reoptimise_steps"] == MORE
        assert one.provenance["base"]["passes"] == 3 * MORE + 2
    expected = model(model.mask(), data) - model(model.mask("L1.head 1"), data)
    assert np.allclose(alone.weights.sel(component="L1.head 1").values, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_of_a_pass_do_not_depend_on_one_another(rows: int, torch_gpt2: Host) -> None:
    data = examples_of(torch_gpt2, 3)
    model = masked(torch_gpt2, adversary(torch_gpt2))
    masks = alphas(len(model.registry), 4)
    assert models.close(model.sweep(masks, data, rows=rows), model.sweep(masks, data, rows=12), 1e-4)


@pytest.mark.parametrize(("held", "name"), [("torch", "gpt2"), ("transformer_lens", "gpt2"), ("nnsight", "gpt2")])
def test_nothing_is_left_behind_in_any_context(held: str, name: str) -> None:
    host = host_of(held, name)
    base, data = adversary(host), examples_of(host, 2)
    model = masked(host, base)
    module = models.module_in(host.adapter.model)
    mask = alphas(len(model.registry), 1)
    outside = model.sweep(mask, data)
    hooks = [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in module.modules()]
    asked = [one.requires_grad for one in module.parameters()]
    with torch.inference_mode():
        inside = masked(host, base).sweep(mask, data)
        called = masked(host, base)(mask.clone(), data)
    with torch.no_grad():
        logits = model.logits(mask, data)
    assert torch.equal(inside, outside)
    assert torch.allclose(called, outside[0], atol=1e-5)
    assert not logits.requires_grad
    assert all(one.grad is None for one in [*module.parameters(), *base.decomposition.parameters()])
    assert [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in module.modules()] == hooks
    assert [one.requires_grad for one in module.parameters()] == asked
    assert models.close(host.adapter.run(data), models.logits_of(host.reference, host.inputs(2)))


def silent(decomposition: Decomposition) -> Decomposition:
    """The decomposition, in which a component writes nothing."""
    own = copy.deepcopy(decomposition)
    with torch.no_grad():
        own[0, "attn.q"].U[2] = 0
    return own


def test_what_more_steps_gain_at_the_baseline_is_said(torch_gpt2: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Without the component that writes nothing, the output rises as far as it would with nothing ablated."""
    decomposition, data = silent(decomposed(torch_gpt2)), examples_of(torch_gpt2, 3)
    few = PGD(decomposition, 1, SIZE, reoptimise=True, reoptimise_steps=MORE)
    model = masked(torch_gpt2, few)
    full, without = model.sweep(torch.cat([model.mask(), model.mask("L0.attn.q rank_one 2")]), data)
    begun = few.search(torch_gpt2.adapter, data)
    more = few.search(torch_gpt2.adapter, data, begin=begun.sources, ascent=few.again)
    assert more.trace.shape == (MORE + 1, 3)
    assert torch.allclose(full, begun.loss, atol=1e-4)
    assert torch.allclose(without, more.loss, atol=1e-3)
    assert float((without - full).min()) > 0.05
    (said,) = caplog.messages
    assert f"4 more steps raise the mean loss from {begun.loss.mean():.4g} to {more.loss.mean():.4g}" in said
    assert "more than steps=1, with reoptimise_steps=4" in said
    caplog.clear()
    masked(torch_gpt2, PGD(decomposition, 40, SIZE, reoptimise=True, reoptimise_steps=2)).bind(data)
    assert not caplog.messages


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_the_cost_is_announced_and_is_what_is_run(torch_gpt2: Host, caplog: pytest.LogCaptureFixture) -> None:
    data = examples_of(torch_gpt2, 3)
    model = masked(torch_gpt2, adversary(torch_gpt2))
    masks = alphas(len(model.registry), 4)
    runs: list[int] = []
    handle = models.module_in(torch_gpt2.adapter.model).register_forward_hook(lambda *_: runs.append(1))
    try:
        model.reference(model.bind(data))
        runs.clear()
        with caplog.at_level(logging.INFO, logger="ablationlens"):
            model.sweep(masks, data, rows=6)
            assert len(runs) == 2 * (1 + MORE + 1)  # two passes: the start, the steps, and what is measured
            runs.clear()
            model.sweep(torch.ones(4, len(model.registry)), data, rows=6)
            assert len(runs) == 2
            model.sweep_gradient(masks, data, rows=6)
    finally:
        handle.remove()
    each = 3 * MORE + 1
    assert f"12 forward rows of 7 positions, in 2 passes of 6; each row costs {each} more to find" in caplog.text
    assert f"its gates, {12 * (each + 1)} forward rows in all" in caplog.text
    assert f"its gates, {12 * (each + 3)} forward rows in all" in caplog.text


def test_a_long_sweep_times_masks_that_ablate_something(
    torch_gpt2: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of leave-one-out keeps everything, and has no ascent."""
    data = examples_of(torch_gpt2, 1)
    model = masked(torch_gpt2, adversary(torch_gpt2))
    timed: list[tuple[int, int]] = []
    outputs = Sweep.outputs
    monkeypatch.setattr(Sweep, "outputs", lambda self, *at, **how: (timed.append(at), outputs(self, *at, **how))[1])
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        Sweep(model, data, al.LeaveOneOut(len(model.registry)), rows=1).announce("alone")
    assert set(timed) == {(len(model.registry), len(model.registry) + 1)}
    assert "about " in caplog.text


def test_a_description_has_what_decides_the_sources_and_a_store_is_of_one(torch_gpt2: Host, tmp_path: Path) -> None:
    data, decomposition = examples_of(torch_gpt2, 2), decomposed(torch_gpt2)
    same = PGD(decomposition, STEPS, SIZE, reoptimise=True)
    once = PGD(decomposition, STEPS, SIZE).describe()
    assert same.describe() == {**once, "reoptimise": True, "reoptimise_steps": STEPS, "passes": 3 * STEPS + 2}
    assert "reoptimise=True, reoptimise_steps=3" in repr(same)
    assert "passes" not in repr(same)
    al.coar(masked(torch_gpt2, same, heads=True), data, alpha=0.3, draws=20, store=tmp_path / "kept")
    again = al.coar(masked(torch_gpt2, same, heads=True), data, alpha=0.3, draws=20, store=tmp_path / "kept")
    assert again.provenance["base"] == same.describe()
    for other in (
        PGD(decomposition, STEPS, SIZE),
        PGD(decomposition, STEPS, SIZE, reoptimise=True, reoptimise_steps=2),
    ):
        with pytest.raises(al.StoreError, match="base"):
            al.coar(masked(torch_gpt2, other, heads=True), data, alpha=0.3, draws=20, store=tmp_path / "kept")


def test_the_remainder_goes_on_too_or_stays_what_it_is(torch_gpt2: Host) -> None:
    data, decomposition = examples_of(torch_gpt2, 2), decomposed(torch_gpt2)
    for remainder, held in (("kept", 1.0), ("dropped", 0.0), ("source", None)):
        model = masked(torch_gpt2, adversary(torch_gpt2, remainder=remainder))
        mask = model.mask("L0.attn.q rank_one 1")
        bound = model.bind(data)
        found = model.settled(mask, bound.data, bound.under(0), model.reference(bound))
        assert isinstance(found, Gated)
        gates = found.gates[..., COUNT :: COUNT + 1]
        assert gates.shape[-1] == len(decomposition.places)
        assert held is None or bool((gates == held).all())
        assert held is not None or bool(((gates > 0) & (gates < 1)).any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reoptimise": True, "scope": "shared"}, "scope of 'shared' has the same for all examples"),
        ({"reoptimise": True, "reoptimise_steps": 0}, "reoptimise_steps is a whole number from 1; got 0"),
        ({"reoptimise": True, "reoptimise_steps": 2.5}, "reoptimise_steps is a whole number"),
        ({"reoptimise_steps": 5}, "are of reoptimise=True"),
        ({"reoptimise": 5}, "reoptimise is True or False; got 5"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str, torch_gpt2: Host) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{message}|type"):  # beartype may be first
        PGD(decomposed(torch_gpt2), **options)
