"""TorchAdapter: any module, through module hooks."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.adapters.state import fingerprint
from ablationlens.sites import Tap
from tests import models
from tests.conftest import HOSTS, host_of


def test_an_example_is_needed_where_the_model_is_no_token_model() -> None:
    with pytest.raises(al.InputError, match="example=torch.zeros"):
        al.adapt(models.convnet())
    images = models.inputs_of("convnet", 1)
    for example in (images, {"input": images}, al.batch(images)):
        assert len(al.adapt(models.convnet(), example=example).registry("filter")) == 6 + 5
    with pytest.raises(al.InputError, match="tensor, a mapping of tensors or a Batch"):
        al.adapt(models.convnet(), example="an image")


def test_a_module_called_twice_is_refused_unless_both_calls_are_meant() -> None:
    adapter = al.adapt(models.twice(), example=torch.zeros(1, 6))
    with pytest.raises(al.AdapterError, match="2 times.*allow_repeated=True"):
        al.MaskedModel(adapter, adapter.registry("row", modules=["twice"]))
    al.MaskedModel(adapter, adapter.registry("row", modules=["once"]))  # the rest of the model is no matter
    model = models.twice()
    adapter = al.adapt(model, example=torch.zeros(1, 6), allow_repeated=True)
    registry = adapter.registry("row", modules=["twice"])
    masked = al.MaskedModel(adapter, registry)
    inputs = torch.randn(4, 6)
    got = masked.logits(masked.mask(off=2), al.batch(inputs))
    expected = models.logits_of(models.edited(model, [registry[2]]), inputs)  # both calls of the one weight
    assert models.close(got, expected)


class Lazy(nn.Module):
    """One module that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor, extra: bool = False) -> Tensor:
        return self.unused(self.used(x)) if extra else self.used(x)


def test_silent_modules_are_named_and_cannot_be_cut() -> None:
    adapter = al.adapt(Lazy(), example=torch.zeros(1, 4))
    assert adapter.silent == ("unused",)
    assert "unused" in repr(adapter)
    assert adapter.layout.names == ("used",)
    with pytest.raises(al.UnknownNameError, match="used"):
        adapter.registry("row", modules=["unused"])


def test_a_site_that_does_not_fire_in_a_run_is_an_error() -> None:
    class Moody(Lazy):
        def forward(self, x: Tensor, extra: bool = True) -> Tensor:
            return super().forward(x, extra=float(x.sum()) == 0)

    adapter = al.adapt(Moody(), example=torch.zeros(1, 4))
    model = al.MaskedModel(adapter, adapter.registry("row", modules=["unused"]), output=lambda logits: logits.sum(1))
    with pytest.raises(al.AdapterError, match="did not fire.*unused"):
        model(torch.zeros(1, 4), al.batch(torch.ones(2, 4)))


def test_a_model_with_nothing_to_cut_is_refused() -> None:
    with pytest.raises(al.AdapterError, match="nothing to cut"):
        al.adapt(nn.Sequential(nn.ReLU()), example=torch.zeros(1, 4))


def test_inputs_may_be_a_mapping_and_outputs_a_tuple() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 5), nn.Linear(4, 5)

        def forward(self, *, a: Tensor, b: Tensor) -> tuple[Tensor, str]:
            return self.left(input=a) * self.right(b), "and a note"

    model = models.scramble(Named())
    inputs = {"a": torch.randn(4, 3), "b": torch.randn(4, 4)}
    adapter = al.adapt(model, example=inputs)
    registry = adapter.registry("column")
    masked = al.MaskedModel(adapter, registry)
    edited = models.untied(model)
    with torch.no_grad():
        edited.left.weight[:, 1] = 0
        edited.right.weight[:, 2] = 0
    got = masked.logits(masked.mask(off=["L0.left column 1", "L1.right column 2"]), al.batch(inputs))
    assert models.close(got, edited(**inputs)[0].detach())


def test_read_gives_the_activations_of_the_unmodified_model() -> None:
    host = host_of("torch", "gpt2")
    taps = [Tap(1, "mlp.out", "in"), Tap(0, "attn.k", "out"), Tap(0, "attn.qkv", "in")]
    found = host.adapter.read(host.data(3), taps)
    seen: dict[str, Tensor] = {}
    own = models.untied(host.reference)
    own.transformer.h[1].mlp.c_proj.register_forward_pre_hook(lambda m, a: seen.update(hidden=a[0]))
    own.transformer.h[0].attn.c_attn.register_forward_hook(lambda m, a, out: seen.update(x=a[0], qkv=out))
    models.logits_of(own, host.inputs(3))
    width = models.WIDTH
    assert torch.equal(found[taps[0]], seen["hidden"])
    assert torch.equal(found[taps[1]], seen["qkv"][..., width : 2 * width])
    assert torch.equal(found[taps[2]], seen["x"])


def test_weights_and_biases_are_those_of_the_model() -> None:
    for name in models.TRANSFORMERS:
        for holder in HOSTS:
            host = host_of(holder, name)
            for module in host.adapter.layout.modules:
                weight, bias = models.part(host.reference, module.layer, module.name)
                assert torch.equal(host.adapter.weight(module.layer, module.name), weight), (holder, name, module)
                ours = host.adapter.bias(module.layer, module.name)
                assert (ours is None or float(ours.abs().max()) == 0) if bias is None else torch.equal(ours, bias)  # type: ignore[arg-type]


def test_the_fingerprint_changes_with_any_parameter() -> None:
    model = models.convnet()
    known = {fingerprint(model)}
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.flatten()[-1] += 1e-3
        known.add(fingerprint(model))
    assert len(known) == 1 + len(list(model.parameters()))
    assert fingerprint(models.convnet()) in known


def test_arguments_that_the_model_does_not_take_are_not_passed() -> None:
    """A padded batch carries position_ids; Llama takes them, a bare module with tokens does not."""

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.out = nn.Linear(4, 9)

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            assert attention_mask is not None
            return self.out(self.embed(input_ids) * attention_mask[..., None])

    tokens, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    data = al.batch(tokens, attention_mask=mask)
    model = models.scramble(Bag())
    adapter = al.adapt(model, example=data)
    masked = al.MaskedModel(adapter, adapter.registry("row"))
    expected = model(tokens, attention_mask=mask).detach()
    assert torch.equal(masked.logits(masked.mask(), data), expected)


def test_an_output_that_runs_the_model_sees_it_whole() -> None:
    """The hooks of a session stay on between its passes, and must do nothing there."""
    model = models.gpt2()
    adapter = al.adapt(model)
    data = al.batch(models.inputs_of("gpt2", 3))
    with torch.no_grad():
        whole = model(data.inputs["input_ids"]).logits
    seen: list[torch.Tensor] = []

    def output(logits: torch.Tensor) -> torch.Tensor:
        seen.append(model(data.inputs["input_ids"]).logits)
        return logits[:, -1, 0]

    masked = al.MaskedModel(adapter, adapter.registry("row"), output=output)
    masked.sweep(torch.zeros(4, len(masked.registry)), data, rows=3)
    assert len(seen) >= 4
    assert all(torch.equal(logits, whole) for logits in seen)


class Pair(NamedTuple):
    hidden: Tensor
    other: int


class Paired(nn.Module):
    """A module that returns a named tuple, and one that works with positions first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.pair = PairOf()
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pair(self.first(x)).hidden.transpose(0, 1)).transpose(0, 1)


class PairOf(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x, 3)


@pytest.mark.parametrize("holder", ["torch", "nnsight"])
def test_a_named_tuple_stays_one(holder: str) -> None:
    model, inputs = models.scramble(Paired()), torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    adapter = al.adapt(models.held_by(holder, model), inputs)
    masked = al.MaskedModel(adapter, adapter.registry(al.custom_site("pair", {"torch": "pair"})))
    got = masked.logits(torch.zeros(1, 4), al.batch(inputs))
    with torch.no_grad():
        assert models.close(got, model.last(torch.zeros(3, 5, 4)))


def test_a_module_whose_first_axis_is_not_the_batch_is_refused() -> None:
    adapter = al.adapt(models.scramble(Paired()), torch.zeros(2, 5, 4))
    with pytest.raises(al.AdapterError, match="5 rows for 2 examples: its first axis is not the batch"):
        al.MaskedModel(adapter, adapter.registry("row", modules=["last"]))


def test_a_session_runs_with_and_without_edits() -> None:
    host = host_of("torch", "gpt2")
    model = al.MaskedModel(host.adapter, host.registry("head"))
    bound, mask = model.bind(host.data()), torch.zeros(1, 8)
    with torch.no_grad(), host.adapter.session() as run:
        run(bound.data, model.plan.edits(mask, bound.stand_ins))
        plain = run(bound.data)
    assert torch.equal(plain, models.logits_of(host.reference, host.inputs()))


def test_positions_of_a_model_outside_the_table_that_counts_them_from_padding() -> None:
    from transformers import MPNetConfig, MPNetForMaskedLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = MPNetConfig(vocab_size=50, max_position_embeddings=20, pad_token_id=1, **sizes)
    adapter = al.adapt(models.scramble(MPNetForMaskedLM(config)))
    assert adapter.context == 18
    model = al.MaskedModel(adapter, adapter.registry("row"))
    short, long = torch.tensor([[7, 12, 9]]), torch.tensor([[5, 6, 7, 8, 9]])
    alone = model.logits(model.mask(), al.batch(short))
    tokens = torch.cat([torch.tensor([[7, 12, 9, 1, 1]]), long])
    attended = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    together = model.logits(model.mask(), al.batch(tokens, attention_mask=attended))
    assert models.close(together[:1, :3], alone)
