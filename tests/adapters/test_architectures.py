"""Where logical modules live in the families of the table: their layout, and laws 1 and 2 on each of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.adapters.architectures import ARCHITECTURES, FUSED, Architecture, architecture_of, layer_lists
from ablationlens.adapters.finding import find_by_architecture
from ablationlens.layout import MODULE_ORDER, split_stack
from ablationlens.sites import Tap
from tests import families, models
from tests.families import FAMILIES, SIBLINGS, Family, model_of

EVERY = {**FAMILIES, **SIBLINGS}
KINDS = ("head", "row", "column", "matrix", "neuron")


@pytest.fixture(params=list(EVERY), ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return EVERY[request.param]


@pytest.fixture(params=list(FAMILIES), ids=str)
def main_family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def registry_of(adapter: al.Adapter, family: Family, kind: str) -> al.Registry:
    if kind == "columns of projections":
        return adapter.registry("column", modules=[part for parts in family.fused.values() for part in parts])
    return adapter.registry(kind)


def test_the_layout_is_that_of_the_weights(family: Family) -> None:
    model = model_of(family.name)
    adapter = al.adapt(model)
    assert adapter.layout.transformer
    assert adapter.layout.names == family.modules
    for module in adapter.layout.modules:
        owner, rows = family.part(model, module.layer, module.name)
        weight = families.matrix(owner)[rows]
        assert (module.rows, module.columns) == tuple(weight.shape), module
        assert torch.equal(adapter.weight(module.layer, module.name), weight), module
        bias, own = adapter.bias(module.layer, module.name), getattr(owner, "bias", None)
        assert (bias is None) == (own is None)
        assert bias is None or torch.equal(bias, own[rows])
    order = [
        (split_stack(m.name)[0], m.layer, MODULE_ORDER.index(split_stack(m.name)[1])) for m in adapter.layout.modules
    ]
    stacks = list(dict.fromkeys(stack for stack, _, _ in order))
    assert order == sorted(order, key=lambda entry: (stacks.index(entry[0]), *entry[1:]))
    assert {heads.attention for heads in adapter.layout.heads} == {*family.attention}
    for heads in adapter.layout.heads:
        key_values = adapter.layout.key_values(heads)
        assert (heads.queries, heads.size, key_values) == (families.HEADS, family.head, family.groups)


@pytest.mark.parametrize("kind", [*KINDS, "columns of projections"])
def test_laws_1_and_2(family: Family, kind: str) -> None:
    if kind == "columns of projections" and not family.fused:
        return
    model = model_of(family.name)
    adapter, inputs = al.adapt(model), family.batch(4)
    registry, data, plain = registry_of(adapter, family, kind), al.batch(inputs), families.run(model, inputs)
    masked = al.MaskedModel(adapter, registry)
    assert torch.equal(masked.logits(torch.ones(4, len(registry)), data), plain)
    kept = torch.tensor([0.2, 0.6, 0.9, 0.0])[:, None]
    mask = (torch.rand(4, len(registry), generator=torch.Generator().manual_seed(0)) < kept).float()
    both = (False, True) if kind in ("row", "matrix") and family.name in FAMILIES else (False,)
    for include_bias in both:
        got = al.MaskedModel(adapter, registry, al.Zero(include_bias=include_bias)).logits(mask, data)
        for row in range(4):
            off = [registry[int(column)] for column in (mask[row] == 0).nonzero()]
            own = families.edited(family, model, off, include_bias=include_bias)
            expected = families.run(own, {name: value[row : row + 1] for name, value in inputs.items()})
            assert models.distance(got[row : row + 1], expected) < 1e-5, (row, len(off), include_bias)
        assert min(models.distance(got[row], plain[row]) for row in range(4)) > 1e-3


def test_padded_examples_are_what_they_are_alone(family: Family) -> None:
    if family.inputs != "tokens" or family.name == "clip_text":  # CLIP reads one output, at the end of the text
        return
    model = model_of(family.name)
    adapter = al.adapt(model)
    masked = al.MaskedModel(adapter, adapter.registry("head"))
    rows = [row[:length] for row, length in zip(family.batch(3)["input_ids"], (3, 6, 4), strict=True)]
    for left in (False, True):
        ids, mask = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.long)
        for example, row in enumerate(rows):
            real = slice(6 - len(row), 6) if left else slice(0, len(row))
            ids[example, real], mask[example, real] = row, 1
        logits = masked.logits(masked.mask(), al.batch(ids, attention_mask=mask))
        for example, row in enumerate(rows):
            alone = families.run(model, {"input_ids": row[None]})[0]
            assert models.distance(logits[example][mask[example].bool()], alone) < 1e-5, (left, example)


# -- the oracle itself: q, k, v and heads as seen in the patterns that transformers returns ----------------------------


def patterns(family: Family, model: nn.Module, inputs: dict[str, Tensor], attention: str, layer: int) -> Tensor:
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    return output[family.attention[attention]][layer]


def eager(family: Family) -> nn.Module:
    model = family.make()
    model.config._attn_implementation = "eager"
    for part in (model.config, *(getattr(model.config, name, None) for name in ("text_config", "vision_config"))):
        if part is not None:
            part._attn_implementation = "eager"
    if model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
    return model.eval()


@torch.no_grad()
def without(family: Family, model: nn.Module, layer: int, name: str, rows: slice) -> nn.Module:
    """A copy in which some rows of a projection, and their biases, are 0."""
    own = models.untied(model)
    module, all_rows = family.part(own, layer, name)
    families.matrix(module)[all_rows[rows]] = 0
    if getattr(module, "bias", None) is not None:
        module.bias[all_rows[rows]] = 0  # type: ignore[index,operator]
    return own


def test_rows_of_q_k_and_v_are_ordered_by_head(main_family: Family) -> None:
    """Without its queries, or without its keys, a head attends in the same way whatever it reads."""
    family, layer = main_family, 1
    model, inputs, size = eager(main_family), main_family.batch(2), main_family.head
    for attention in family.attention:
        plain = patterns(family, model, inputs, attention, layer)
        assert float((plain[0] - plain[1]).abs().amax((1, 2)).min()) > 1e-4  # every head reads its input
        for part, count in (("q", families.HEADS), ("k", family.groups)):
            for head in range(count):
                rows = slice(head * size, (head + 1) * size)
                own = patterns(
                    family, without(family, model, layer, f"{attention}.{part}", rows), inputs, attention, layer
                )
                share = families.HEADS // count
                reads = (own[0] - own[1]).abs().amax((1, 2)) > 1e-6
                assert [not read for read in reads] == [other // share == head for other in range(families.HEADS)]
        for head in range(family.groups):  # without its values, a head writes nothing
            rows = slice(head * size, (head + 1) * size)
            own = without(family, model, layer, f"{attention}.v", rows)
            seen: list[Tensor] = []
            out, _ = family.part(own, layer, f"{attention}.o")
            out.register_forward_pre_hook(lambda _module, args, seen=seen: seen.append(args[0]))
            families.run(own, inputs)
            silent = seen[0].unflatten(-1, (families.HEADS, size)).abs().amax(-1).flatten(0, -2).amax(0) == 0
            share = families.HEADS // family.groups
            assert silent.tolist() == [other // share == head for other in range(families.HEADS)]


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_names_only_logical_modules() -> None:
    for architecture in ARCHITECTURES:
        local = {split_stack(name)[1] for name in architecture.modules}
        assert local <= set(MODULE_ORDER)
        assert {"attn.o", "mlp.out"} <= local
        assert ("attn.qkv" in local) != ("attn.q" in local)
    assert {part for parts in FUSED.values() for part in parts} <= set(MODULE_ORDER)


def test_models_outside_the_table_go_by_path() -> None:
    assert architecture_of(models.mlp()) is None
    adapter = al.adapt(models.mlp(), example=torch.zeros(1, 10))
    assert adapter.layout.names == ("first", "middle", "last")  # in the order of execution
    assert [module.layer for module in adapter.layout.modules] == [0, 1, 2]
    assert not adapter.layout.transformer
    with pytest.raises(al.InputError, match="head"):
        adapter.registry("head")


def test_a_model_that_lacks_a_module_of_its_family_goes_by_path() -> None:
    model = models.llama()
    model.model.layers[1].mlp = nn.Identity()
    assert architecture_of(model) is None
    assert not al.adapt(model).layout.transformer


def test_the_inner_model_of_a_family_is_found_too(main_family: Family) -> None:
    from transformers import T5Model

    model = model_of(main_family.name)
    inner = T5Model(copy.deepcopy(model.config)) if main_family.inputs == "both stacks" else model.base_model
    assert inner is not model
    architecture = architecture_of(inner)
    assert architecture is not None
    assert find_by_architecture(inner, architecture).layout == al.adapt(model).layout


def test_an_encoder_of_t5_has_the_names_of_the_whole_model() -> None:
    from transformers import T5EncoderModel

    whole = model_of("t5")
    encoder = T5EncoderModel(copy.deepcopy(whole.config))
    assert al.adapt(encoder.eval()).layout.names == tuple(n for n in FAMILIES["t5"].modules if n.startswith("encoder."))


def test_heads_of_two_stacks_say_which() -> None:
    adapter = al.adapt(model_of("t5"))
    names = adapter.registry("head").names
    assert (names[0], names[2 * 4], names[2 * 4 + 4]) == (
        "L0.encoder.attn head 0",
        "L0.decoder.attn head 0",
        "L0.decoder.cross head 0",
    )
    assert len(names) == len(set(names)) == 4 * (2 + 3 + 3)
    assert adapter.registry("head", modules=["decoder.cross.o"], layers=[2]).names[-1] == "L2.decoder.cross head 3"
    assert adapter.registry("neuron").names[0] == "L0.encoder.mlp neuron 0"
    with pytest.raises(al.InputError, match=r"encoder\.attn\.q or decoder\.attn\.q"):
        adapter.registry("row", modules=["attn.q"])
    assert adapter.registry("row", modules=["cross.q"])[0].name == "L0.decoder.cross.q row 0"


# -- an architecture of one's own --------------------------------------------------------------------------------------


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joint, self.back = nn.Linear(12, 20), nn.Linear(12, 12)  # 3 query heads of 4, 1 key/value head

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.joint(x).split([12, 4, 4], dim=-1)
        queries = queries.unflatten(-1, (3, 4)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(queries, keys[:, None], values[:, None])
        return self.back(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.widen, self.shrink = Mixer(), nn.Linear(12, 30), nn.Linear(30, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x)
        return x + self.shrink(torch.tanh(self.widen(x)))


class Own(nn.Module):
    """A transformer whose names say nothing, without a configuration."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([Block(), Block()])
        self.read = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.read(x)


OWN = Architecture(
    layers="steps",
    modules={"mlp.out": "shrink", "mlp.in": "widen", "attn.o": "mix.back", "attn.qkv": "mix.joint"},
    head_size=4,
)


def test_an_architecture_of_ones_own_gives_logical_names() -> None:
    model = models.scramble(Own())
    adapter = al.adapt(model, example=torch.zeros(1, 5, 12), architecture=OWN)
    assert adapter.layout.names == ("attn.qkv", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.out")
    assert adapter.layout.key_values(adapter.layout.heads[0]) == 1
    data = al.batch(torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0)))
    registry = adapter.registry(["head", "neuron"]) + adapter.registry("row", modules=["v"])
    masked = al.MaskedModel(adapter, registry)
    own = models.untied(model)
    with torch.no_grad():
        own.steps[1].mix.back.weight[:, 4:8] = 0
        own.steps[0].shrink.weight[:, 29] = 0
        own.steps[1].mix.joint.weight[16 + 3] = 0
    got = masked.logits(masked.mask(off=["L1.head 1", "L0.neuron 29", "L1.attn.v row 3"]), data)
    assert models.close(got, models.logits_of(own, data.inputs["input"]))
    assert Tap(0, "attn.qkv", "in") in {part.site.read for part in adapter.registry("column").parts}


def test_the_text_of_an_architecture_makes_it() -> None:
    for architecture in (*ARCHITECTURES, OWN):
        assert eval(repr(architecture), {"al": al}) == architecture


def test_an_architecture_that_does_not_fit_is_refused() -> None:
    def given(**changes: object) -> Architecture:
        settings = {"layers": OWN.layers, "modules": OWN.modules, "head_size": 4, **changes}
        return Architecture(**settings)  # type: ignore[arg-type]

    for changes, error, match in [
        ({"modules": {"mlp.up": "widen"}}, al.InputError, "no logical module 'mlp.up'.*mlp.in"),
        ({"modules": {"encoder.mlp.in": "widen"}}, al.InputError, "stack 'encoder', and layers= has no stacks"),
        ({"layers": {"encoder": "steps"}}, al.InputError, "stack '', and layers= has the stacks encoder"),
        ({"head_size": 0}, al.InputError, "head_size=0"),
        ({"layers": "blocks"}, al.AdapterError, "no list of layers at blocks; its lists of modules are steps"),
        ({"modules": {"mlp.in": "wider"}}, al.AdapterError, r"no module steps\.0\.wider.*widen"),
        ({"head_size": None}, al.AdapterError, r"steps\.0\.mix\.back reads 12 features.*head_size=\.\.\."),
        ({"head_size": 5}, al.AdapterError, "no heads of 5 features"),
        ({"head_size": 12}, al.AdapterError, "20 rows does not hold 1 query heads of 12"),
        ({"modules": {"attn.qkv": "mix.joint"}}, al.AdapterError, r"name attn\.o too"),
        ({"modules": {"attn.o": "mix"}}, al.AdapterError, "a Mixer, which has no matrix"),
    ]:
        with pytest.raises(error, match=match):
            al.adapt(Own(), example=torch.zeros(1, 5, 12), architecture=given(**changes))
    assert [path for _, path, _ in layer_lists(Own(), OWN)] == ["steps"]


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_a_model_with_two_inputs_needs_both() -> None:
    adapter = al.adapt(model_of("t5"))
    masked = al.MaskedModel(adapter, adapter.registry("head"))
    with pytest.raises(al.InputError, match="decoder_input_ids"):
        masked.logits(masked.mask(), al.batch(torch.ones(1, 4, dtype=torch.long)))


def test_a_model_of_images_needs_no_example_and_takes_images_by_either_name() -> None:
    model, images = model_of("vit"), FAMILIES["vit"].batch(2)["pixel_values"]
    adapter = al.adapt(model)
    masked = al.MaskedModel(adapter, adapter.registry("head"))
    expected = families.run(model, {"pixel_values": images})
    for data in (al.batch(images), al.batch({"pixel_values": images})):
        assert torch.equal(masked.logits(masked.mask(), data), expected)


def test_longer_inputs_than_the_model_has_positions_are_refused() -> None:
    for name, most in [("bert", 32), ("roberta", 30), ("t5", None)]:  # RoBERTa counts on from the padding's number
        adapter = al.adapt(model_of(name))
        assert adapter.context == most  # type: ignore[attr-defined]
        if most is not None:
            ids = torch.full((1, most), 5)
            masked = al.MaskedModel(adapter, adapter.registry("head"))
            assert masked.logits(masked.mask(), al.batch(ids)).shape == (1, most, families.VOCAB)
            with pytest.raises(al.InputError, match=f"context of {most}"):
                masked.logits(masked.mask(), al.batch(torch.full((1, most + 1), 5)))
