"""What a session shows beside its logits, against hooks on models whose weights were edited."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.adapters.watch import Watch
from ablationlens.sites import Pattern, Tap
from tests import models
from tests.conftest import HOSTS, Host, host_of

PATTERN = Pattern(1, "attn")


@pytest.fixture(params=[(host, name) for host in HOSTS for name in ("gpt2", "llama")], ids="-".join)
def held(request: pytest.FixtureRequest) -> Host:
    return host_of(*request.param)


def passed(
    model: al.MaskedModel, data: al.Batch, taps: list[Tap | Pattern], masks: list[Tensor]
) -> list[dict[Tap | Pattern, Tensor]]:
    """What each of several passes of one session shows."""
    bound, watch = model.bind(data), Watch(taps)
    found: list[dict[Tap | Pattern, Tensor]] = []
    with model.session(watch) as run:
        for mask in masks:
            run(mask.expand(len(data), -1), bound.data, bound.stand_ins)
            found.append(dict(watch.seen))
    return found


def shown(model: Any, inputs: Tensor, layer: int, name: str, side: str) -> Tensor:
    """What a module of a plain model reads or writes."""
    kept: list[Tensor] = []
    module, rows = models.module_of(model, layer, name)
    handle = module.register_forward_hook(lambda _m, i, o: kept.append((i[0] if side == "in" else o).detach()))
    models.logits_of(model, inputs)
    handle.remove()
    return kept[0] if side == "in" else kept[0][..., rows]


def pattern_of(model: Any, inputs: Tensor, layer: int) -> Tensor:
    own = models.untied(model)
    own.set_attn_implementation("eager")
    with torch.no_grad():
        return own(inputs, output_attentions=True).attentions[layer]


@pytest.mark.parametrize("graph", [False, True])
def test_what_is_shown_is_that_of_a_model_with_edited_weights(held: Host, graph: bool) -> None:
    inputs = held.inputs(3)
    registry = held.adapter.registry("head") + held.adapter.registry("row", modules=["mlp.in", "attn.q"])
    model = al.MaskedModel(held.adapter, registry, al.Zero(include_bias=True))
    off = ["L0.head 2", "L0.mlp.in row 5", "L1.attn.q row 3"]
    taps: list[Tap | Pattern] = [
        Tap(0, "mlp.in", "out"),  # what it writes after the edit of its own row
        Tap(0, "mlp.out", "in"),
        Tap(1, "attn.q", "out"),
        Tap(1, "mlp.out", "out"),
        PATTERN,
    ]
    mask = model.mask(off).requires_grad_(graph)
    with torch.set_grad_enabled(graph):
        (seen,) = passed(model, al.batch(inputs), taps, [mask])
    edited = models.edited(held.reference, [registry[registry.column(name)] for name in off], include_bias=True)
    for tap in taps:
        if isinstance(tap, Tap):
            expected = shown(edited, inputs, tap.layer, tap.module, tap.side)
            clean = shown(held.reference, inputs, tap.layer, tap.module, tap.side)
        else:
            expected, clean = pattern_of(edited, inputs, 1), pattern_of(held.reference, inputs, 1)
        assert models.close(seen[tap], expected), tap
        assert models.distance(seen[tap], clean) > 1e-3, tap
        assert seen[tap].requires_grad == graph, tap


def test_an_input_is_shown_as_it_is_handed_on(held: Host) -> None:
    """Heads are cut at the input of attn.o: what is shown there is without them."""
    tap, inputs = Tap(0, "attn.o", "in"), held.inputs(2)
    model = al.MaskedModel(held.adapter, held.adapter.registry("head"))
    with torch.no_grad():
        (seen,) = passed(model, al.batch(inputs), [tap], [model.mask("L0.head 1")])
    expected = shown(held.reference, inputs, 0, "attn.o", "in").unflatten(-1, (models.HEADS, -1)).clone()
    assert bool(expected[:, :, 1].abs().max() > 0.01)
    expected[:, :, 1] = 0
    assert models.close(seen[tap], expected.flatten(2))


def test_every_pass_of_a_session_shows_its_own(held: Host) -> None:
    registry, inputs = held.adapter.registry("head"), held.inputs(2)
    model = al.MaskedModel(held.adapter, registry)
    taps: list[Tap | Pattern] = [Tap(1, "mlp.out", "in"), PATTERN]
    with torch.no_grad():
        found = passed(model, al.batch(inputs), taps, [model.mask(), model.mask("L0.head 0"), model.mask()])
    edited = models.edited(held.reference, [registry[0]])
    for seen, plain in zip(found, (held.reference, edited, held.reference), strict=True):
        assert models.close(seen[taps[0]], shown(plain, inputs, 1, "mlp.out", "in"))
        assert models.close(seen[PATTERN], pattern_of(plain, inputs, 1))


def test_a_session_may_begin_with_the_model_as_it_is(held: Host) -> None:
    """The first pass has no edits: those of later ones are seen all the same, also where they are made."""
    model, inputs = al.MaskedModel(held.adapter, held.adapter.registry("head")), held.inputs(2)
    bound, watch = model.bind(al.batch(inputs)), Watch([Tap(0, "attn.o", "in"), PATTERN])
    edits = model.plan.edits(model.mask("L0.head 1").expand(2, -1), bound.stand_ins)
    with torch.no_grad(), held.adapter.session(watch) as run:
        run(bound.data)
        clean = dict(watch.seen)
        run(bound.data, edits)
        after = dict(watch.seen)
        run(bound.data)
    for tap in watch.taps:
        assert models.close(watch.seen[tap], clean[tap])
    z, cut = clean[watch.taps[0]].unflatten(2, (4, -1)), after[watch.taps[0]].unflatten(2, (4, -1))
    assert models.close(cut[:, :, [0, 2, 3]], z[:, :, [0, 2, 3]])
    assert not bool(cut[:, :, 1].any()) and bool(z[:, :, 1].all())
    edited = models.edited(held.reference, [held.adapter.registry("head")[1]])
    assert models.close(after[PATTERN], pattern_of(edited, inputs, 1))


def test_a_pattern_is_shown_after_an_edit_of_the_pattern_itself() -> None:
    held = host_of("transformer_lens", "gpt2")
    site = al.custom_site("weights", {"transformer_lens": "blocks.1.attn.hook_pattern"}, axis=1)
    model = al.MaskedModel(held.adapter, held.adapter.registry(site))
    with torch.no_grad():
        (seen,) = passed(model, held.data(2), [PATTERN], [model.mask("L1.weights 2")])
    expected = pattern_of(held.reference, held.inputs(2), 1).clone()
    expected[:, 2] = 0
    assert models.close(seen[PATTERN], expected)


@pytest.mark.parametrize("host", ["torch", "nnsight"])
def test_what_a_later_module_overwrites_is_shown_as_it_was(host: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    adapter = al.adapt(models.held_by(host, plain), example=torch.zeros(1, 4))
    inputs, tap = torch.randn(3, 4), Tap(0, "0", "out")
    model = al.MaskedModel(adapter, adapter.registry("row", modules=["0"]), al.Zero(include_bias=True))
    with torch.no_grad():
        (seen,) = passed(model, al.batch(inputs), [tap], [model.mask(2)])
        expected = plain[0](inputs)
    expected[:, 2] = 0
    assert bool((expected < 0).any()) and models.close(seen[tap], expected)


def test_the_graph_leads_back_to_the_mask(held: Host) -> None:
    """Gradients of what is shown, against finite differences."""
    model, data = al.MaskedModel(held.adapter, held.adapter.registry("head", layers=0)), held.data(2)
    taps: list[Tap | Pattern] = [Tap(1, "mlp.out", "in"), PATTERN]

    def measured(mask: Tensor) -> Tensor:
        (seen,) = passed(model, data, taps, [mask])
        return torch.stack([seen[taps[0]].square().mean(), seen[PATTERN].square().mean()]).double()

    mask = torch.tensor([[0.4, 0.8, 0.6, 0.5]], requires_grad=True)
    value = measured(mask)
    step = 0.005
    for number in range(2):
        (gradient,) = torch.autograd.grad(value[number], mask, retain_graph=True)
        with torch.no_grad():
            moved = [(measured(mask + step * e) - measured(mask - step * e))[number] / (2 * step) for e in torch.eye(4)]
        expected = torch.stack(moved).float()
        assert float(expected.abs().max()) > 1e-4
        assert float((gradient[0] - expected).abs().max()) < 0.02 * float(expected.abs().max())


def left_behind(adapter: al.Adapter) -> tuple[Any, ...]:
    every = list(adapter.model.modules())
    configs = [m.config for m in every if hasattr(getattr(m, "config", None), "_attn_implementation")]
    settings = {id(config): config._attn_implementation for config in configs}
    assert set(settings.values()) == {"sdpa"} or adapter.host == "transformer_lens"
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in every]
    return hooks, settings, [m.training for m in every]


def test_nothing_outlives_a_call_or_an_exception_in_one(held: Host) -> None:
    model, data = al.MaskedModel(held.adapter, held.adapter.registry("head")), held.data(2)
    taps: list[Tap | Pattern] = [Tap(1, "mlp.out", "in"), PATTERN]
    before = left_behind(held.adapter)
    with torch.no_grad():
        passed(model, data, taps, [model.mask()])
    assert left_behind(held.adapter) == before
    bound, watch = model.bind(data), Watch(taps)
    with pytest.raises(ZeroDivisionError), torch.no_grad(), model.session(watch) as run:
        run(model.mask().expand(2, -1), bound.data, bound.stand_ins)
        raise ZeroDivisionError
    assert left_behind(held.adapter) == before
    unknown = al.batch(torch.full((2, 5), models.VOCAB + 3))
    with (
        pytest.raises(Exception, match="index out of range"),
        torch.no_grad(),
        held.adapter.session(Watch(taps)) as run,
    ):
        run(unknown)
    assert left_behind(held.adapter) == before
    with torch.no_grad():
        (seen,) = passed(model, data, taps, [model.mask()])
    assert set(seen) == set(taps)


def test_nothing_is_noted_between_passes(held: Host) -> None:
    """The user, or an output, may run the model while a session is open."""
    model, data = al.MaskedModel(held.adapter, held.adapter.registry("head")), held.data(2)
    bound, watch = model.bind(data), Watch([Tap(1, "mlp.out", "in"), PATTERN])
    with torch.no_grad(), model.session(watch) as run:
        run(model.mask().expand(2, -1), bound.data, bound.stand_ins)
        before = dict(watch.seen)
        held.adapter.model(held.inputs(2, seed=5))
        assert all(watch.seen[tap] is value for tap, value in before.items())
        watch.seen.clear()
        held.adapter.model(held.inputs(2, seed=5))
        assert not watch.seen


@pytest.mark.parametrize(
    ("tap", "match"),
    [
        (Tap(0, "encoder.attn.o", "in"), "encoder.attn.o"),
        (Tap(9, "attn.o", "in"), "9"),
        (Pattern(9), "no layer 9"),
        (Pattern(0, "decoder.cross"), "no attention 'decoder.cross'"),
    ],
    ids=str,
)
def test_a_tap_of_another_model_is_refused(held: Host, tap: Tap | Pattern, match: str) -> None:
    before = left_behind(held.adapter)
    with pytest.raises(al.UnknownNameError, match=match), torch.no_grad(), held.adapter.session(Watch([tap])) as run:
        run(held.data(2))
    assert left_behind(held.adapter) == before


def test_what_does_not_show_is_named_with_what_to_do_about_it() -> None:
    tap, watch = Tap(0, "mlp.out", "in"), Watch([PATTERN, Tap(0, "mlp.out", "in"), PATTERN])
    assert watch.taps == (PATTERN, tap)
    assert (watch.activations, watch.patterns) == ((tap,), (PATTERN,))
    watch.advice[PATTERN] = "Load it otherwise"
    value = torch.ones(1)
    watch.note(tap, value)
    assert not watch.seen
    with (
        pytest.raises(al.AdapterError, match=r"pass: L1\.attn\.pattern, L0\.mlp\.out\.in\. Load it otherwise$"),
        watch.one_pass(),
    ):
        pass
    with pytest.raises(ZeroDivisionError), watch.one_pass():  # an error of the model's own is not hidden
        raise ZeroDivisionError
    watch.note(tap, value)
    assert not watch.seen
    with watch.one_pass():
        watch.note(tap, value)
        watch.note(PATTERN, value)
    assert set(watch.seen) == {tap, PATTERN}
    with pytest.raises(al.AdapterError, match=r"L1\.attn\.pattern\. Load"), watch.one_pass():
        watch.note(tap, value)  # what an earlier pass showed does not count
