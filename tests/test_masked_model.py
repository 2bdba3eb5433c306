"""MaskedModel: shapes and ranges, masks by name and position, sweeps."""

from __future__ import annotations

import copy
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.masked_model import check_call
from tests import models
from tests.conftest import Host, host_of
from tests.passes import before_each_pass


@pytest.fixture
def model(gpt2: Host) -> al.MaskedModel:
    return al.MaskedModel(gpt2.adapter, gpt2.registry("head"))


def test_another_ablation_or_output_keeps_the_rest(model: al.MaskedModel, gpt2: Host) -> None:
    half = model.having(ablation=al.Scale(0.5), output=al.Logit(3))
    direct = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), al.Scale(0.5), al.Logit(3))
    mask, data = torch.zeros(1, 8), gpt2.data(2)
    assert torch.equal(half(mask, data), direct(mask, data))
    assert repr(half.having(output=al.Margin()).ablation) == repr(al.Scale(0.5))
    assert repr(model.having().output) == repr(model.output)
    assert not torch.equal(half(mask, data), model(mask, data))


def test_what_is_no_masked_model_is_refused(model: al.MaskedModel, gpt2: Host) -> None:
    with pytest.raises(al.InputError, match=r"al\.MaskedModel\(adapter.*got GPT2LMHeadModel"):
        check_call(gpt2.reference, gpt2.data(2))
    with pytest.raises(al.InputError, match=r"al\.batch.*got list"):
        check_call(model, ["a text"])
    check_call(model, gpt2.data(2))


# --- shapes and ranges ------------------------------------------------------------------------------------------------


def test_one_mask_for_all_equals_the_same_mask_repeated(model: al.MaskedModel, gpt2: Host) -> None:
    data = gpt2.data(3)
    mask = torch.tensor([[1.0, 0, 1, 0.5, 1, 1, 0, 1]])
    assert torch.equal(model(mask, data), model(mask.repeat(3, 1), data))
    by_position = mask[:, None].repeat(3, 7, 1)
    assert models.close(model(by_position, data), model(mask, data))


@pytest.mark.parametrize(
    "shape", [(8,), (3, 7), (2, 8), (3, 1, 8), (1, 7, 8), (3, 6, 8), (3, 8, 1), (4, 8), (3, 7, 8, 1)]
)
def test_masks_of_another_shape_are_refused(model: al.MaskedModel, gpt2: Host, shape: tuple[int, ...]) -> None:
    with pytest.raises((al.InputError, TypeError), match=r"\[3, 8\]|shape"):
        model(torch.ones(shape), gpt2.data(3))


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_gates_outside_0_to_1_are_refused(model: al.MaskedModel, gpt2: Host, value: float) -> None:
    mask = torch.ones(3, 8)
    mask[1, 2] = value
    with pytest.raises(al.InputError, match="gates go from 0"):
        model(mask, gpt2.data(3))
    with pytest.raises(al.InputError, match="gates go from 0"):
        model.sweep(mask, gpt2.data(3))


def test_masks_of_integers_or_no_tensors_are_refused(model: al.MaskedModel, gpt2: Host) -> None:
    for mask in (torch.ones(1, 8, dtype=torch.long), np.ones((1, 8))):
        with pytest.raises((al.InputError, TypeError)):
            model(mask, gpt2.data(3))  # type: ignore[arg-type]
    with pytest.raises(al.InputError, match="0 draws"):
        model.sweep(torch.ones(0, 8), gpt2.data(3))
    with pytest.raises(al.InputError, match="needed; this one has 7"):
        model.sweep(al.Bernoulli(7, 0.3, 5), gpt2.data(3))
    with pytest.raises(al.InputError, match="draw, 8"):
        model.sweep(torch.ones(4, 7), gpt2.data(3))
    boolean = torch.ones(4, 8, dtype=torch.bool)
    assert model.sweep(boolean, gpt2.data(3)).shape == (4, 3)


def test_an_empty_registry_is_refused(gpt2: Host) -> None:
    with pytest.raises(al.InputError, match="empty"):
        al.MaskedModel(gpt2.adapter, al.Registry([]))


def test_a_mask_by_position_is_refused_where_there_are_none() -> None:
    host = host_of("torch", "convnet")
    registry = host.registry("filter")
    with pytest.raises(al.InputError):
        al.MaskedModel(host.adapter, registry, output=al.Logit(1)).logits(torch.ones(2, 3, len(registry)), host.data(2))


# --- masks by name and position ---------------------------------------------------------------------------------------


def test_a_mask_by_name(model: al.MaskedModel) -> None:
    assert torch.equal(model.mask(), torch.ones(1, 8))
    expected = torch.ones(1, 8)
    expected[0, [1, 6]] = 0
    registry = model.registry
    for off in (["L0.head 1", "L1.head 2"], [1, 6], [registry[1], "L1.head 2"], (registry[6], 1)):
        assert torch.equal(model.mask(off=off), expected)
    assert model.mask(off="L0.head 3").sum() == 7
    with pytest.raises(al.UnknownNameError, match="L0.head 3"):
        model.mask(off="L0.head 33")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_at_positions_counts_real_tokens(model: al.MaskedModel, side: str) -> None:
    tokens = torch.tensor([[3, 7, 9, 1, 0, 0], [8, 2, 6, 5, 4, 1]])
    attended = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    if side == "left":
        tokens[0], attended[0] = tokens[0].roll(2), attended[0].roll(2)
    data = al.batch(tokens, attention_mask=attended)
    mask = model.mask(off=[2], positions=[0, -1], data=data)
    first = {"left": [2, 5], "right": [0, 3]}[side]
    expected = torch.ones(2, 6, 8)
    expected[0, first, 2] = 0
    expected[1, [0, 5], 2] = 0
    assert torch.equal(mask, expected)
    with pytest.raises(al.InputError, match="4 tokens"):
        model.mask(off=[2], positions=4, data=data)
    with pytest.raises(al.InputError, match="data=data"):
        model.mask(off=[2], positions=0)


def test_a_gate_at_one_position_is_an_activation_set_to_zero_there(model: al.MaskedModel, gpt2: Host) -> None:
    inputs = gpt2.inputs(3)
    data = al.batch(inputs)
    got = model.logits(model.mask(off="L1.head 1", positions=2, data=data), data)
    hooked = models.untied(gpt2.reference)
    size = models.WIDTH // models.HEADS

    def zero(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        z[:, 2, size : 2 * size] = 0
        return (z, *args[1:])

    hooked.transformer.h[1].attn.c_proj.register_forward_pre_hook(zero)
    expected = models.logits_of(hooked, inputs)
    assert models.close(got, expected)
    assert torch.equal(got[:, :2], models.logits_of(gpt2.adapter.model, inputs)[:, :2])


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_sweep_is_a_loop_of_single_calls(model: al.MaskedModel, gpt2: Host) -> None:
    data = gpt2.data(3)
    masks = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    swept = model.sweep(masks, data)
    assert (swept.dtype, swept.device.type, tuple(swept.shape)) == (torch.float32, "cpu", (6, 3))
    assert models.close(swept, torch.stack([model(mask[None], data) for mask in masks]))
    by_position = torch.rand(4, 7, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([model(mask[None].repeat(3, 1, 1), data) for mask in by_position])
    assert models.close(model.sweep(by_position, data), expected)


def test_a_gradient_sweep_is_a_loop_of_autograd(model: al.MaskedModel, gpt2: Host) -> None:
    data = gpt2.data(3)
    masks = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    slopes = []
    for mask in masks:
        gates = mask.repeat(3, 1).requires_grad_()
        slopes.append(torch.autograd.grad(model(gates, data).sum(), gates)[0])
    stacked = torch.stack(slopes)
    for rows in (None, 1, 4):
        mean, total = (model.sweep_gradient(masks, data, reduce=how, rows=rows) for how in ("mean", "sum"))
        assert mean is not None
        assert total is not None
        assert models.close(mean, stacked.mean(0))
        assert models.close(total, stacked.sum(0))
    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    assert model.sweep_gradient(masks, data, reduce=lambda *block: pieces.append(block), rows=6) is None
    assert len(pieces) == 3
    assert torch.equal(torch.cat([piece[0] for piece in pieces]), masks)
    assert models.close(torch.cat([piece[1] for piece in pieces]), model.sweep(masks, data))
    assert models.close(torch.cat([piece[2] for piece in pieces]), stacked)
    with pytest.raises((al.InputError, TypeError)):
        model.sweep_gradient(masks, data, reduce="median")  # type: ignore[arg-type]


def test_gradients_are_those_of_finite_differences() -> None:
    host = host_of("torch", "mlp")
    registry = host.registry("row")
    model = al.MaskedModel(host.adapter, registry, output=al.Logit(2))
    data = host.data(2)
    mask = torch.full((1, len(registry)), 0.6)
    gradient = model.sweep_gradient(mask, data)
    assert gradient is not None
    step = 0.05
    for column in range(0, len(registry), 5):
        up, down = mask.clone(), mask.clone()
        up[0, column] += step
        down[0, column] -= step
        slope = (model(up, data) - model(down, data)) / (2 * step)
        assert float((slope - gradient[:, column]).abs().max()) < 2e-2 * max(0.1, float(gradient.abs().max()))


def test_a_pass_that_does_not_fit_is_halved(
    gpt2: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"))
    data = gpt2.data(3)
    design = al.Bernoulli(8, 0.3, 9, seed=1)
    expected, slopes = model.sweep(design, data), model.sweep_gradient(design, data)
    seen: list[int] = []

    def small(batch: al.Batch) -> None:
        seen.append(len(batch))
        if len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    before_each_pass(gpt2.adapter, monkeypatch, small)
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        assert models.close(model.sweep(design, data, rows=27), expected)
    assert max(seen) == 27
    assert "did not fit" in caplog.text
    assert sum(size > 4 for size in seen) <= 4  # once found, the size is kept
    halved = model.sweep_gradient(design, data, rows=27)
    assert halved is not None
    assert slopes is not None
    assert models.close(halved, slopes)

    def never(batch: al.Batch) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")

    before_each_pass(gpt2.adapter, monkeypatch, never)
    with pytest.raises(al.InputError, match="does not fit into memory"):
        model.sweep(design, data)

    def broken(batch: al.Batch) -> None:
        raise RuntimeError("something else")

    before_each_pass(gpt2.adapter, monkeypatch, broken)
    with pytest.raises(RuntimeError, match="something else"):
        model.sweep(design, data)


def test_the_cost_is_logged_before_the_sweep(
    model: al.MaskedModel, gpt2: Host, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        model.sweep(al.Bernoulli(8, 0.3, 100), gpt2.data(3), rows=6)
    assert "100 masks x 3 examples = 300 forward rows of 7 positions, in 50 passes of 6, about" in caplog.text


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_callables_are_outputs(gpt2: Host) -> None:
    data = gpt2.data(3)
    registry = gpt2.registry("head")
    mask = torch.tensor([[1.0, 0, 1, 0.5, 1, 1, 0, 1]])
    logits = al.MaskedModel(gpt2.adapter, registry).logits(mask, data)
    one = al.MaskedModel(gpt2.adapter, registry, output=lambda logits: logits[:, -1, 7])
    assert torch.equal(one(mask, data), logits[:, -1, 7])
    two = al.MaskedModel(
        gpt2.adapter, registry, output=lambda logits, batch: logits[:, 0, 0] + batch.inputs["input_ids"][:, 0]
    )
    assert torch.equal(two(mask, data), logits[:, 0, 0] + data.inputs["input_ids"][:, 0])
    assert torch.equal(two.sweep(mask, data)[0], two(mask, data))  # the batch that is packed along
    bad = al.MaskedModel(gpt2.adapter, registry, output=lambda logits: logits.sum())
    with pytest.raises(al.InputError, match="one float for each row"):
        bad(mask, data)


def test_kl_is_zero_where_everything_is_kept_and_compares_with_the_unmodified_model(gpt2: Host) -> None:
    data = gpt2.data(3)
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), output=al.KL())
    assert float(model(torch.ones(1, 8), data).abs().max()) < 1e-6
    mask = torch.tensor([[1.0, 0, 1, 1, 1, 1, 0, 1]])
    clean = models.logits_of(gpt2.reference, gpt2.inputs(3)).log_softmax(-1)
    other = model.logits(mask, data).log_softmax(-1)
    expected = (clean.exp() * (clean - other)).sum(-1)[:, :-1].mean(1)  # scored: where there is a next token
    assert models.close(model(mask, data), expected)
    assert models.close(model.sweep(mask.repeat(5, 1), data, rows=4), expected.repeat(5, 1))


def test_outputs_that_are_not_finite_come_through(gpt2: Host) -> None:
    model = al.MaskedModel(
        gpt2.adapter, gpt2.registry("head"), output=lambda logits: logits[:, 0, 0] / 0 * torch.tensor([1.0, 0.0, 1.0])
    )
    swept = model.sweep(torch.ones(1, 8), gpt2.data(3))
    assert torch.isfinite(swept).tolist() == [[False, False, False]]


def test_replacements_are_bound_once_for_each_batch(gpt2: Host) -> None:
    bound: list[int] = []

    class Counting(al.Zero):
        def bind(self, plan: object, data: al.Batch) -> object:  # type: ignore[override]
            bound.append(len(data))
            return al.Zero.bind(self, plan, data)  # type: ignore[arg-type]

    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), Counting())
    data = gpt2.data(3)
    for _ in range(3):
        model(torch.ones(1, 8), data)
    model.sweep(torch.ones(5, 8), data)
    assert bound == [3]
    model(torch.ones(1, 8), gpt2.data(2))
    assert bound == [3, 2]


def test_describe_holds_everything_that_decides_an_output(gpt2: Host) -> None:
    import json

    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), al.Scale(0.25), al.Logit(3))
    described = json.loads(json.dumps(model.describe()))
    assert described["ablation"] == {"ablation": "Scale", "gamma": 0.25}
    assert described["registry"] == {"components": 8, "fingerprint": model.registry.fingerprint}
    assert described["output"]["token"] == 3
    assert described["model"]["host"] == gpt2.host
    assert "8 components" in repr(model)


# --- what is handed in by mistake, and other modes of PyTorch ---------------------------------------------------------


def test_columns_of_an_array_make_a_mask(model: al.MaskedModel) -> None:
    expected = model.mask(off=[1, 6])
    for off in (np.array([1, 6]), torch.tensor([1, 6]), np.array(model.registry.names)[[1, 6]]):
        assert torch.equal(model.mask(off=off), expected)  # type: ignore[arg-type]
    for one in (np.int64(6), torch.tensor([0.0, 2.0]).argmax() + 5):
        assert torch.equal(model.mask(off=one), model.mask(off=6))  # type: ignore[arg-type]


def test_positions_are_integers_of_any_kind(model: al.MaskedModel, gpt2: Host) -> None:
    data = gpt2.data(2)
    expected = model.mask(off=1, positions=[2], data=data)
    for positions in (2, np.int64(2), np.array([2]), torch.tensor(2), range(2, 3)):
        assert torch.equal(model.mask(off=1, positions=positions, data=data), expected)  # type: ignore[arg-type]
    with pytest.raises((al.InputError, TypeError), match="positions"):
        model.mask(off=1, positions=1.5, data=data)  # type: ignore[arg-type]


def test_what_is_no_batch_adapter_registry_or_ablation_is_named(model: al.MaskedModel, gpt2: Host) -> None:
    def refuse(match: str, call: object, *args: object) -> None:
        with pytest.raises((al.InputError, TypeError), match=f"{match}|type"):  # beartype may be first
            call(*args)  # type: ignore[operator]

    ones, adapter, heads = torch.ones(1, 8), gpt2.adapter, gpt2.registry("head")
    for data in ("a text", ["a text"], torch.ones(2, 3)):
        refuse("the data is a Batch", model, ones, data)
        refuse("the data is a Batch", model.sweep, ones, data)
        refuse("the data is a Batch", al.leave_one_out, model, data)
        refuse("a counterfactual is a Batch", al.Counterfactual, data)
        refuse("the data of a Mean is a Batch", al.Mean, data)
        refuse("the data of a Resample is a Batch", al.Resample, data)
    refuse(r"expected an adapter, al\.adapt", al.MaskedModel, adapter.model, heads)
    refuse("expected a registry", al.MaskedModel, adapter, "head")
    refuse("an ablation is an instance", al.MaskedModel, adapter, heads, al.Zero)
    with pytest.raises(al.InputError, match="no examples"):
        model(ones, gpt2.data(2).take([]))
    with pytest.raises(al.InputError, match="float or bool tensor"):
        model.sweep(torch.tensor(1.0), gpt2.data(2))


def test_tokens_that_the_model_does_not_know_are_refused(gpt2: Host) -> None:
    strange = al.batch(torch.full((2, 5), models.VOCAB))
    longer = al.batch(torch.ones(2, 33, dtype=torch.long))
    heads = gpt2.registry("head")
    for bad, match in ((strange, f"token {models.VOCAB}, and the model knows 0 to {models.VOCAB - 1}"), (longer, "32")):
        with pytest.raises(al.InputError, match=match):
            al.MaskedModel(gpt2.adapter, heads)(torch.ones(1, 8), bad)
        with pytest.raises(al.InputError, match=match):  # in the data of an ablation too
            al.MaskedModel(gpt2.adapter, heads, al.Mean(bad))(torch.ones(1, 8), gpt2.data(2))


def test_a_gradient_sweep_by_position(model: al.MaskedModel, gpt2: Host) -> None:
    data = gpt2.data(3)
    masks = torch.rand(4, 7, 8, generator=torch.Generator().manual_seed(1))
    slopes = []
    for mask in masks:
        gates = mask.repeat(3, 1, 1).requires_grad_()
        slopes.append(torch.autograd.grad(model(gates, data).sum(), gates)[0])
    for rows in (None, 2):
        mean = model.sweep_gradient(masks, data, rows=rows)
        assert mean is not None
        assert models.close(mean, torch.stack(slopes).mean(0))


def test_an_output_without_a_gradient_says_so(gpt2: Host) -> None:
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), output=lambda logits: logits[:, 0, 0].detach())
    with pytest.raises(al.InputError, match="no gradient in the mask"):
        model.sweep_gradient(torch.ones(2, 8), gpt2.data(2))


@pytest.mark.parametrize("output", [al.KL(), al.Margin()], ids=["KL", "Margin"])
def test_inference_mode_spoils_nothing(gpt2: Host, output: al.Output) -> None:
    """What is kept in inference mode is of use to autograd after it, and a gradient sweep works in it."""
    data, mask = gpt2.data(3), torch.full((1, 8), 0.5)

    def fresh() -> al.MaskedModel:
        return al.MaskedModel(gpt2.adapter, gpt2.registry("head"), al.Mean(data), output)

    model, expected = fresh(), fresh().sweep_gradient(mask, data)
    with torch.inference_mode():
        outputs = model(mask, data)
        assert models.close(model.sweep(mask, data)[0], outputs)
        inside = fresh().sweep_gradient(mask, data)
    after = model.sweep_gradient(mask, data)
    gates = mask.clone().requires_grad_()
    model(gates, data).sum().backward()
    assert expected is not None
    for got in (inside, after, gates.grad):
        assert got is not None
        assert models.close(got.sum(0), expected.sum(0))


def test_what_was_bound_under_autocast_is_not_used_without_it(gpt2: Host) -> None:
    data = gpt2.data(3)
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), output=al.KL())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(model(torch.ones(1, 8), data).abs().max()) < 1e-6
        assert model.describe()["model"]["autocast"] == "bfloat16"  # a store of one is not resumed by the other
    assert float(model(torch.ones(1, 8), data).abs().max()) < 1e-6
    assert "autocast" not in model.describe()["model"]


def test_a_copy_is_a_model_of_its_own(gpt2: Host) -> None:
    adapter = al.adapt(gpt2.fresh())
    model = al.MaskedModel(adapter, gpt2.registry("head"))
    mask, data = model.mask(off=[1, 6]), gpt2.data(3)
    expected = model(mask, data)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter.zero_()
    assert torch.equal(copied(mask, data), expected)
    assert torch.equal(copied(mask, gpt2.data(3)), expected)


def test_threads_that_share_a_model_do_not_see_each_others_ablations(gpt2: Host) -> None:
    data, width = gpt2.data(3), 8
    designs = [al.Bernoulli(width, 0.4, 30, seed) for seed in range(4)]

    def sweep(design: al.Design) -> Tensor:
        return al.MaskedModel(gpt2.adapter, gpt2.registry("head")).sweep(design, data, rows=3)

    expected = [sweep(design) for design in designs]
    with ThreadPoolExecutor(4) as pool:
        for got, one in zip(pool.map(sweep, designs), expected, strict=True):
            assert models.close(got, one)


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_weights_and_data_that_are_changed_in_place_are_bound_anew(gpt2: Host, ablation: str) -> None:
    """After an optimiser's step, replacements and the reference of a KL are those of the model as it is."""
    adapter = al.adapt(gpt2.fresh())
    rows, data = gpt2.registry("row"), gpt2.data(3)
    mask = (torch.rand(1, len(rows), generator=torch.Generator().manual_seed(0)) < 0.8).float()

    def fresh() -> al.MaskedModel:
        return al.MaskedModel(adapter, rows, al.Zero() if ablation == "zero" else al.Mean(data), al.KL())

    model = fresh()
    before = model(mask, data)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter.mul_(1.2)
    assert not torch.equal(model(mask, data), before)
    assert torch.equal(model(mask, data), fresh()(mask, data))
    data.inputs["input_ids"][0, 0] += 1
    assert torch.equal(model(mask, data), fresh()(mask, data))
    assert float(model(torch.ones(1, len(rows)), data).abs().max()) < 1e-6


def test_weights_that_are_exchanged_are_bound_anew(torch_gpt2: Host) -> None:
    """Nothing is changed in place, and no count of changes rises."""
    adapter = al.adapt(torch_gpt2.fresh())
    heads, data = torch_gpt2.registry("head"), torch_gpt2.data(3)
    model = al.MaskedModel(adapter, heads, al.Mean(data), al.KL())
    off = model.mask([1, 6])
    before = model(off, data)
    mlp = adapter.model.transformer.h[0].mlp.c_fc
    mlp.weight = torch.nn.Parameter(1.5 * mlp.weight.detach())
    assert float(model(model.mask(), data).abs().max()) < 1e-6
    fresh = al.MaskedModel(adapter, heads, al.Mean(data), al.KL())
    assert torch.equal(model(off, data), fresh(off, data))
    assert not torch.equal(model(off, data), before)


def test_what_was_bound_is_bound_anew_when_the_users_hooks_change(gpt2: Host) -> None:
    """A KL of an all-ones mask is 0 whatever the user has hooked since, and means are those of the hooked model."""
    held = gpt2.fresh()
    adapter = al.adapt(held)
    data, ones = gpt2.data(3), torch.ones(1, 8)
    model = al.MaskedModel(adapter, gpt2.registry("head"), al.Mean(data), al.KL())
    assert float(model(ones, data).abs().max()) < 1e-6
    if gpt2.host == "transformer_lens":
        held.add_hook("blocks.0.hook_mlp_out", lambda value, hook: 0 * value)
    elif gpt2.host == "torch":
        held.transformer.h[0].mlp.register_forward_hook(lambda m, a, out: 0 * out)
    else:
        with held.edit(inplace=True):
            held.transformer.h[0].mlp.output = held.transformer.h[0].mlp.output * 0
    assert float(model(ones, data).abs().max()) < 1e-6
    off = model.mask(off=[1, 6])
    assert torch.equal(model(off, data), al.MaskedModel(adapter, model.registry, al.Mean(data), al.KL())(off, data))
