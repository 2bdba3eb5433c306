"""Decompositions: parts, importances, and what they are on a model, against weights edited by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.spd import Decomposition, Part, importance_function
from ablationlens.spd.sigmoids import SIGMOIDS
from tests import models
from tests.conftest import ALL_HOSTS, HOSTS, host_of
from tests.spd.small import COUNT, PLACES, decomposed
from tests.spd.test_functions import by_hand


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs_by_hand(model: Any, inputs: Tensor) -> dict[Any, Tensor]:
    """Inputs of the decomposed modules, by hooks of PyTorch's own."""
    seen: dict[Any, Tensor] = {}
    handles = []
    for where in PLACES:
        module, _ = models.module_of(model, *where)
        handles.append(
            module.register_forward_pre_hook(lambda _, args, where=where: seen.__setitem__(where, args[0].detach()))
        )
    models.logits_of(model, inputs)
    for handle in handles:
        handle.remove()
    return seen


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_component_is_an_outer_product_and_the_weight_is_their_sum() -> None:
    V, U = randn(5, 3), randn(3, 4, seed=1)
    part = Part(V, U)
    assert part.components == 3
    expected = sum(torch.outer(U[c], V[:, c]) for c in range(3))
    assert models.close(part.weight, expected)
    x = randn(2, 7, 5, seed=2)
    assert models.close(part.codes(x), torch.einsum("bti,ic->btc", x, V))
    assert torch.equal(part.importance(x), torch.ones(2, 7, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_codes_and_importances_have_the_dtype_of_the_components(dtype: torch.dtype) -> None:
    part = Part(randn(5, 3), randn(3, 4), importance_function("vector_mlp", 3, 5, (2,)))
    x = randn(2, 5).to(dtype)
    assert part.codes(x).dtype == torch.float32
    assert part.importance(x).dtype == torch.float32


def test_parts_are_copies() -> None:
    V, U = randn(5, 3), randn(3, 4)
    part = Part(V, U)
    V.zero_()
    assert float(part.V.detach().abs().min()) > 0
    assert part.V.requires_grad


@pytest.mark.parametrize(("V", "U"), [((5, 3), (2, 4)), ((5,), (1, 4))])
def test_factors_that_do_not_fit_each_other(V: tuple[int, ...], U: tuple[int, ...]) -> None:
    with pytest.raises((al.InputError, TypeError)):
        Part(torch.ones(V), torch.ones(U))


# --- decompositions --------------------------------------------------------------------------------------------------


def test_places_names_and_repr() -> None:
    host = host_of("torch", "gpt2")
    decomposition = decomposed(host)
    assert decomposition.places == PLACES
    assert repr(decomposition) == "Decomposition(4 modules, 24 components and 4 remainders)"
    assert decomposition[0, "attn.v"] is dict(decomposition.items())[0, "attn.v"]
    with pytest.raises(al.UnknownNameError, match=r"no \(1, 'attn.v'\): it has L0.attn.q, L0.attn.v, L1.attn.o"):
        decomposition[1, "attn.v"]
    assert decomposition.history.empty


def test_bad_input() -> None:
    with pytest.raises(al.InputError, match=r"\{\(0, \"attn.q\"\): al.spd.Part\(V, U\)\}; got none"):
        Decomposition({})
    with pytest.raises(al.UnknownNameError, match="no sigmoid 'soft'"):
        Decomposition({(0, "attn.q"): Part(randn(5, 3), randn(3, 4))}, sigmoid="soft")


def test_the_fingerprint_is_of_every_tensor_the_places_and_the_sigmoid() -> None:
    host = host_of("torch", "gpt2")
    own = copy.deepcopy(decomposed(host))
    before = own.fingerprint
    assert before == decomposed(host).fingerprint
    for parameter in own.parameters():
        kept = parameter.detach().clone()
        parameter.data.view(-1)[-1] += 1
        assert own.fingerprint != before
        parameter.data.copy_(kept)
    assert own.fingerprint == before
    assert Decomposition(dict(own.items()), sigmoid="hard").fingerprint != before
    moved = {(1 - layer, module): part for (layer, module), part in own.items()}
    assert Decomposition(moved).fingerprint != before


# --- on a model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "name"), [one for one in ALL_HOSTS if one[1] != "convnet"])
def test_weights_are_the_models_own(held: str, name: str) -> None:
    host = host_of(held, name)
    for where, weight in decomposed(host).weights(host.adapter).items():
        assert torch.equal(weight, models.part(host.reference, *where)[0])


@pytest.mark.parametrize("name", ["gpt2", "llama", "mlp"])
def test_spd_requirement_03_components_and_remainder_add_up_to_the_weight(name: str) -> None:
    """What the reconstruction says is left, in float64, is what the components leave."""
    host = host_of("torch", name)
    table = decomposed(host).reconstruction(host.adapter)
    assert list(table.columns) == ["layer", "module", "components", "error", "relative"]
    for row, (where, part) in zip(table.itertuples(), decomposed(host).items(), strict=True):
        weight = models.part(host.reference, *where)[0].double()
        remainder = weight - torch.einsum("ic,co->oi", part.V.double(), part.U.double())
        assert (row.layer, row.module, row.components) == (*where, COUNT)
        assert row.error == pytest.approx(float(remainder.detach().square().mean()), rel=1e-5)
        assert row.relative == pytest.approx(float(remainder.detach().norm() / weight.norm()), rel=1e-5)
        added = part.weight.double() + (weight - part.weight.double())
        assert float((added - weight).abs().max()) < 1e-15 * max(1.0, float(weight.abs().max()))


def test_the_registry_has_every_component_and_each_modules_remainder_last() -> None:
    host = host_of("torch", "llama")
    registry = decomposed(host).registry(host.adapter)
    names = [str(component) for component in registry]
    assert len(names) == 4 * (COUNT + 1)
    assert names[COUNT - 1 : COUNT + 1] == ["L0.attn.q rank_one 5", "L0.attn.q remainder"]


@pytest.mark.parametrize("held", ["torch", "transformer_lens", "nnsight"])
@pytest.mark.parametrize("kind", ["mlp", "vector_mlp", "shared_mlp"])
def test_importances_are_the_functions_of_the_modules_inputs(held: str, kind: str) -> None:
    host = host_of(held, "gpt2")
    decomposition = decomposed(host, kind)
    found = decomposition.importances(host.adapter, host.data(5), rows=2)
    seen = inputs_by_hand(host.reference, host.inputs(5))
    for where, part in decomposition.items():
        x = seen[where].double()
        read = torch.einsum("bti,ic->btc", x, part.V.double()) if kind == "mlp" else x
        assert part.function is not None
        expected = by_hand(kind, part.function.state_dict(), read).clamp(0, 1)
        assert found[where].dtype == torch.float32
        assert models.close(found[where].double(), expected, 2e-5)
        assert float(((found[where] > 0) & (found[where] < 1)).float().mean()) > 0.02  # not all at the ends


@pytest.mark.parametrize("name", SIGMOIDS)
def test_the_sigmoid_of_the_decomposition_is_the_one_that_is_used(name: str) -> None:
    host = host_of("torch", "gpt2")
    decomposition = decomposed(host, sigmoid=name)
    raw = randn(3, 4, 5)
    found = decomposition.squashed(raw)
    assert torch.equal(found.lower, SIGMOIDS[name].lower(raw))
    assert torch.equal(found.upper, SIGMOIDS[name].upper(raw))
    importances = decomposition.importances(host.adapter, host.data(2))
    assert all(bool(((one >= 0) & (one <= 1)).all()) for one in importances.values())


def test_importances_do_not_depend_on_how_examples_are_packed_and_are_0_at_padding() -> None:
    host = host_of("torch", "gpt2")
    ids = torch.randint(0, models.VOCAB, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    data = al.batch({"input_ids": ids, "attention_mask": mask})
    decomposition = decomposed(host)
    found = decomposition.importances(host.adapter, data)
    alone = decomposition.importances(host.adapter, al.batch(ids[1:2, :4]))
    for where, one in found.items():
        assert bool((one[1, 4:] == 0).all())
        assert bool((one[0] > 0).any())
        assert models.close(one[1:2, :4], alone[where])
        assert models.close(one, decomposition.importances(host.adapter, data, rows=1)[where])


def test_a_decomposition_without_functions_finds_everything_important() -> None:
    host = host_of("torch", "gpt2")
    whole = Decomposition({where: Part(part.V, part.U) for where, part in decomposed(host).items()})
    assert all(bool((one == 1).all()) for one in whole.importances(host.adapter, host.data(2)).values())


def test_a_damaged_function_is_found() -> None:
    host = host_of("torch", "gpt2")
    own = copy.deepcopy(decomposed(host))
    next(own[0, "attn.v"].function.parameters()).data.fill_(float("nan"))
    with pytest.raises(al.InputError, match=r"importances of L0.attn.v are not finite"):
        own.importances(host.adapter, host.data(2))


def test_a_decomposition_of_another_model() -> None:
    gpt2, small = host_of("torch", "gpt2"), host_of("torch", "mlp")
    with pytest.raises(al.UnknownNameError, match="attn.q"):
        decomposed(gpt2).importances(small.adapter, small.data(2))
    wide = Decomposition({(1, "mlp.out"): Part(randn(99, 3), randn(3, models.WIDTH))})
    with pytest.raises(al.InputError, match=r"L1.mlp.out is a 32 x 128 matrix, and its components are 32 x 99"):
        wide.importances(gpt2.adapter, gpt2.data(2))


def test_spd_requirement_22_importances_of_another_shape_are_refused() -> None:
    """A function that gives a number for each example, and not for each position, fits no mask."""

    class ByExample(al.spd.functions.ImportanceFunction):
        kind = "by example"

        def forward(self, read: Tensor) -> Tensor:
            return read.mean(1)[..., :COUNT]

    host = host_of("torch", "gpt2")
    one = decomposed(host)[0, "attn.v"]
    wrong = Decomposition({(0, "attn.v"): Part(one.V, one.U, ByExample())})
    with pytest.raises((al.InputError, TypeError), match="importances? "):  # beartype may be first
        wrong.importances(host.adapter, host.data(7))  # as many examples as positions


@pytest.mark.parametrize("held", HOSTS)
def test_a_function_of_ones_own_may_look_back_and_not_ahead(held: str) -> None:
    class Mean(al.spd.functions.ImportanceFunction):
        """Importances from a mean over all positions, or over those up to each."""

        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind = kind  # type: ignore[misc]

        def forward(self, read: Tensor) -> Tensor:
            count = torch.arange(1, read.shape[1] + 1)[:, None]
            back = read.cumsum(1) / count
            rounded = back + 1e-6 * read.shape[1]  # as other kernels do, for another length
            ahead = read.mean(1, keepdim=True).expand_as(read)
            mixed = {"ahead": ahead, "back": back, "alone": read, "rounded": rounded}[self.kind]
            return 0.5 + 0.2 * mixed[..., :COUNT]

    host = host_of(held, "gpt2")
    one = decomposed(host)[0, "attn.v"]
    made = {
        k: Decomposition({(0, "attn.v"): Part(one.V, one.U, Mean(k))}) for k in ("ahead", "back", "alone", "rounded")
    }
    data = host.data(3)
    with pytest.raises(al.InputError, match=r"function of L0.attn.v looks ahead: importances of the first 3 positions"):
        made["ahead"].importances(host.adapter, data)
    prefix = al.batch(data.inputs["input_ids"][:, :4])
    for kind in ("back", "alone", "rounded"):
        whole, short = (made[kind].importances(host.adapter, x)[0, "attn.v"] for x in (data, prefix))
        torch.testing.assert_close(whole[:, :4], short, rtol=0, atol=1e-5)
