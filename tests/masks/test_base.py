"""What a base is where it says nothing else, and a base of a user's own against edited weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.adapters.base import Adapter
from ablationlens.masks.base import Base, MaskedRows
from tests import models
from tests.conftest import Host
from tests.spd.small import decomposed

PART, REST = "L0.attn.q rank_one 2", "L1.mlp.out remainder"


class Given(Base):
    """The least that a base has to say: gates, here one number for each component and example."""

    def __init__(self, gates: Tensor, **settings: Any) -> None:
        self.given, self.settings, self.made = gates, settings, 0

    def gates(self, adapter: Adapter, registry: al.Registry, data: al.Batch) -> Tensor:
        self.made += 1
        return self.given

    def describe(self) -> dict[str, Any]:
        return {"base": "Given", **self.settings}


def test_unless_it_says_so_a_base_is_one_set_of_gates_that_costs_a_pass_and_stays(torch_gpt2: Host) -> None:
    base, data, registry = Given(torch.ones(1, 3, 28)), torch_gpt2.data(3), torch_gpt2.registry("head")
    assert (base.samples, base.passes, base.binding, base.version) == (1, 1, 0, 0)
    assert base.behind(torch_gpt2.adapter, registry) is None
    gates, search = base.bind(torch_gpt2.adapter, registry, data)
    assert gates is base.given
    assert search is None


def test_it_shows_its_settings() -> None:
    assert repr(Given(torch.ones(1, 3, 8), seed=3, scope="example")) == "Given(seed=3, scope='example')"
    assert repr(Given(torch.ones(1, 3, 8))) == "Given()"


@pytest.mark.parametrize("missing", ["gates", "describe"])
def test_gates_and_how_they_came_about_are_what_a_base_must_have(missing: str) -> None:
    own: dict[str, Any] = {name: getattr(Given, name) for name in ("gates", "describe") if name != missing}
    with pytest.raises(TypeError, match=f"abstract.*{missing}"):
        type("Half", (Base,), own)()


def test_rows_of_a_pass_are_compared_as_themselves_and_stay_as_they_are(torch_gpt2: Host) -> None:
    data = torch_gpt2.data(2)
    one, two = (MaskedRows(torch.ones(2, 8), torch.arange(2), data, torch.ones(2), torch.exp) for _ in range(2))
    assert one != two  # tensors are neither equal nor unequal
    assert one == one
    assert len({one, two, one}) == 2
    with pytest.raises(AttributeError):
        one.mask = torch.zeros(2, 8)  # type: ignore[misc]


def test_gates_multiply_masks(gpt2: Host) -> None:
    """A head at gate g has columns of attn.o that are g times what they were."""
    data, registry = gpt2.data(3), gpt2.registry("head")
    gates = torch.rand(1, 3, len(registry), generator=torch.Generator().manual_seed(0))
    base = Given(gates)
    model = al.MaskedModel(gpt2.adapter, registry, output=al.Logit(2), base=base)
    mask = torch.rand(3, len(registry), generator=torch.Generator().manual_seed(1))
    mask[:, 5] = 0
    size = models.WIDTH // models.HEADS
    for masks in (mask, torch.ones(1, len(registry))):
        found = model.logits(masks, data)
        for example in range(3):
            edited = models.untied(gpt2.reference)
            with torch.no_grad():
                for column, component in enumerate(registry):
                    weight, _ = models.part(edited, component.site.layer, "attn.o")
                    own = slice(component.index * size, (component.index + 1) * size)
                    weight[:, own] *= gates[0, example, column] * masks.expand(3, -1)[example, column]
            expected = models.logits_of(edited, gpt2.inputs(3)[example : example + 1])
            assert models.close(found[example : example + 1], expected)
    assert base.made == 1  # once for each data set


def test_outputs_are_means_over_samples(torch_gpt2: Host) -> None:
    class Several(Given):
        samples = 3  # type: ignore[assignment]

    registry, data = decomposed(torch_gpt2).registry(torch_gpt2.adapter), torch_gpt2.data(2)
    gates = torch.rand(3, 2, len(registry), generator=torch.Generator().manual_seed(0))
    several, *single = (
        al.MaskedModel(torch_gpt2.adapter, registry, output=al.Logit(2), base=base)
        for base in (Several(gates), *(Given(gates[one : one + 1]) for one in range(3)))
    )
    mask = several.mask([PART, REST])
    expected = torch.stack([one(mask, data) for one in single])
    assert models.close(several(mask, data), expected.mean(0))
    assert models.distance(expected[0], expected[1]) > 1e-3
    assert (several.passes, single[0].passes) == (3, 1)


def test_gates_are_made_again_when_the_version_changes(torch_gpt2: Host) -> None:
    class Versioned(Given):
        number = 0

        @property
        def version(self) -> int:
            return self.number

    registry, data = torch_gpt2.registry("head"), torch_gpt2.data(2)
    base = Versioned(torch.ones(1, 2, len(registry)))
    model = al.MaskedModel(torch_gpt2.adapter, registry, output=al.Logit(2), base=base)
    whole = model.logits(model.mask(), data)
    base.given = torch.full_like(base.given, 0.5)
    assert torch.equal(model.logits(model.mask(), data), whole)
    base.number = 1
    halved = model.logits(model.mask(), data)
    assert models.distance(halved, whole) > 1e-3
    assert base.made == 2
