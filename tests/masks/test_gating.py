"""A base that gates more components than a mask has columns for: as if the mask had them, and kept them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.masks.base import Base
from ablationlens.spd import PGD, Decomposition, Deterministic, Stochastic
from tests import models
from tests.conftest import HOSTS, Host, host_of
from tests.spd.small import COUNT, decomposed, logits_under

MODES: dict[str, Any] = {
    "deterministic": Deterministic,
    "stochastic": lambda d: Stochastic(d, seed=3),
    "pgd": lambda d: PGD(d, 2, 0.2),
    "pgd, again": lambda d: PGD(d, 2, 0.2, reoptimise=True),
}
LANGUAGE = [(host, name) for host in HOSTS for name in ("gpt2", "llama")]
CHOSEN = ("L0.attn.q rank_one 2", "L0.attn.q rank_one 4", "L1.attn.o remainder", "L1.attn.o rank_one 0")
"""Of two of four modules, with one remainder; not in the order of the columns."""


@pytest.fixture(params=MODES, ids=lambda name: name.replace(" ", "_"))
def mode(request: pytest.FixtureRequest) -> Any:
    return MODES[request.param]


def chosen(host: Host) -> al.Registry:
    return decomposed(host).registry(host.adapter).select(name=CHOSEN)


def both(host: Host, base: Base) -> tuple[al.MaskedModel, al.MaskedModel, list[int]]:
    """A model of some components, a model of all, and the columns of the first in the second."""
    whole = decomposed(host).registry(host.adapter)
    some = al.Registry([(part.site, part.indices) for part in reversed(chosen(host).parts)])
    assert some.names != tuple(name for name in whole.names if name in CHOSEN)  # in another order of modules
    ours, all_of_it = (al.MaskedModel(host.adapter, one, output=al.KL(), base=base) for one in (some, whole))
    return ours, all_of_it, [whole.column(name) for name in some.names]


def widened(mask: Tensor, columns: list[int], width: int) -> Tensor:
    whole = torch.ones(*mask.shape[:-1], width)
    whole[..., columns] = mask
    return whole


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_some_components_are_what_they_are_in_a_registry_of_all(held: str, name: str, mode: Any) -> None:
    host = host_of(held, name)
    some, whole, columns = both(host, mode(decomposed(host)))
    data, width = host.data(3), len(whole.registry)
    assert torch.equal(some.logits(some.mask(), data), whole.logits(whole.mask(), data))
    generator = torch.Generator().manual_seed(1)
    for shape in ((3, len(columns)), (3, 7, len(columns))):
        mask = torch.rand(*shape, generator=generator).round(decimals=1)
        assert torch.equal(some.logits(mask, data), whole.logits(widened(mask, columns, width), data))
    masks = torch.rand(5, len(columns), generator=generator)
    assert torch.equal(some.sweep(masks, data, rows=6), whole.sweep(widened(masks, columns, width), data, rows=6))
    slopes = whole.sweep_gradient(widened(masks, columns, width), data, rows=6)
    assert models.close(some.sweep_gradient(masks, data, rows=6), slopes[..., columns], 1e-6)


def test_what_the_others_do_is_added_up_by_hand(torch_gpt2: Host, mode: Any) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    base = mode(decomposition)
    some, _, _ = both(torch_gpt2, base)
    gates = {at: (own.parts.clone(), own.remainder.clone()) for at, own in base.module_gates(
        torch_gpt2.adapter, data
    ).items()}  # fmt: skip
    kept = logits_under(torch_gpt2.reference, decomposition, gates, torch_gpt2.inputs(3))
    assert models.close(some.logits(some.mask(), data), kept)
    if isinstance(base, PGD) and base.again is not None:
        return  # its gates are others now: see tests/spd/test_warm_start.py
    gates[0, "attn.q"][0][..., 4] = 0
    gates[1, "attn.o"][1][..., 0] = 0
    without = logits_under(torch_gpt2.reference, decomposition, gates, torch_gpt2.inputs(3))
    mask = some.mask(["L0.attn.q rank_one 4", "L1.attn.o remainder"])
    assert models.close(some.logits(mask, data), without)
    assert models.distance(without, kept) > 1e-4


def test_heads_beside_some_components(torch_gpt2: Host) -> None:
    """Heads cut `attn.o`, whose components lie behind; those of `attn.q` have columns of their own."""
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    heads = torch_gpt2.adapter.registry("head")
    queries = decomposition.registry(torch_gpt2.adapter).select(name=CHOSEN[:2])
    base = Stochastic(decomposition, seed=3)
    of_heads, of_queries, together, reverse = (
        al.MaskedModel(torch_gpt2.adapter, one, output=al.KL(), base=base)
        for one in (heads, queries, heads + queries, queries + heads)
    )
    generator = torch.Generator().manual_seed(2)
    for shape in ((3,), (3, 7)):
        mask = torch.rand(*shape, len(heads), generator=generator)
        own = torch.rand(*shape, 2, generator=generator)
        alone = torch.cat([mask, torch.ones_like(own)], -1)
        assert torch.equal(together.logits(alone, data), of_heads.logits(mask, data))
        kept = torch.cat([torch.ones_like(mask), own], -1)
        assert torch.equal(together.logits(kept, data), of_queries.logits(own, data))
        found = together.logits(torch.cat([mask, own], -1), data)
        assert torch.equal(reverse.logits(torch.cat([own, mask], -1), data), found)
        assert models.distance(found, of_heads.logits(mask, data)) > 1e-4
        assert models.distance(found, of_queries.logits(own, data)) > 1e-4


def test_heads_hold_a_mean_of_their_own_in_front_of_a_base(torch_gpt2: Host) -> None:
    data, heads = torch_gpt2.data(3), torch_gpt2.adapter.registry("head")
    zero = al.MaskedModel(torch_gpt2.adapter, heads, base=Deterministic(decomposed(torch_gpt2)))
    mean = zero.having(ablation=al.Mean(torch_gpt2.data(4, seed=1)))
    mask = zero.mask("L1.head 2")
    assert torch.equal(zero.logits(zero.mask(), data), mean.logits(zero.mask(), data))
    assert models.distance(zero.logits(mask, data), mean.logits(mask, data)) > 1e-4


def test_coar_on_some_components_predicts_their_ablations(torch_gpt2: Host) -> None:
    data, base = torch_gpt2.data(2), Stochastic(decomposed(torch_gpt2), 2)
    some, whole, columns = both(torch_gpt2, base)
    found = al.coar(some, data, alpha=0.5, draws=60)
    assert list(found.weights["component"].values) == list(some.registry.names)
    assert found.provenance["registry"]["components"] == len(CHOSEN)
    scores = al.evaluate(some, data, {"coar": found}, alphas=[0.5], draws=40)
    assert float(scores.table()["pearson"].min()) > 0.8
    alone = al.leave_one_out(some, data).weights.values
    assert np.allclose(alone, al.leave_one_out(whole, data).weights.values[:, columns], atol=1e-5)


def test_gates_of_some_components_are_their_columns(torch_gpt2: Host, mode: Any) -> None:
    base, data = mode(decomposed(torch_gpt2)), torch_gpt2.data(2)
    some, whole, columns = both(torch_gpt2, base)
    ours, every = (base.gates(torch_gpt2.adapter, one.registry, data) for one in (some, whole))
    assert torch.equal(ours, every[..., columns])
    assert base.behind(torch_gpt2.adapter, whole.registry) is None
    assert len(base.behind(torch_gpt2.adapter, some.registry)) == 4 * (COUNT + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda h, d: al.MaskedModel(h.adapter, chosen(h), al.Mean(h.data()), base=Deterministic(d)),
            r"ablated to is al.Zero\(\)",
        ),
        (
            lambda h, d: al.MaskedModel(h.adapter, chosen(h), base=Deterministic(decomposed(h, seed=1))),
            r"components of L0.attn.q in this registry are not those .* or select\(...\) from that",
        ),
        (
            lambda h, d: al.MaskedModel(
                h.adapter, chosen(h), base=Deterministic(Decomposition({(0, "attn.q"): d[0, "attn.q"]}))
            ),
            r"components of L1.attn.o in this registry",
        ),
    ],
)  # fmt: skip
def test_bad_input(call: Any, message: str, torch_gpt2: Host) -> None:
    with pytest.raises(al.InputError, match=message):
        call(torch_gpt2, decomposed(torch_gpt2))
