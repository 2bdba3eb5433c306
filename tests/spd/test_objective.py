"""What an adversary makes as large as it can: any output, against modules added up component by component."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.sites import Tap
from ablationlens.spd import PGD
from tests import models
from tests.conftest import HOSTS, Host, host_of
from tests.spd.small import decomposed, logits_under


def third(logits: Tensor) -> Tensor:
    return logits[:, -1, 3]


def against_its_label(logits: Tensor, batch: al.Batch) -> Tensor:
    return -al.Margin()(logits, batch)


class Strength(al.TapOutput):
    """The norm of what a module writes."""

    taps = (Tap(1, "mlp.in", "out"),)

    def read(self, seen: Mapping[Any, Tensor], logits: Tensor, batch: al.Batch) -> Tensor:
        return seen[self.taps[0]].norm(dim=-1).mean(1)


@pytest.mark.parametrize("held", HOSTS)
@pytest.mark.parametrize("scope", ["example", "shared"])
def test_any_output_is_made_large_by_gates_that_give_it(held: str, scope: Any) -> None:
    host = host_of(held, "gpt2")
    decomposition, data = decomposed(host), host.data(3)
    base = PGD(decomposition, 4, 0.2, output=third, scope=scope)
    found = base.search(host.adapter, data)
    gates = {where: (own.parts, own.remainder) for where, own in base.module_gates(host.adapter, data).items()}
    reached = logits_under(host.reference, decomposition, gates, host.inputs(3))[:, -1, 3]
    assert torch.allclose(found.loss, reached.float(), atol=1e-4)
    assert float(found.loss.sum()) > float(found.trace[0].sum()) + 0.1
    of_kl = PGD(decomposition, 4, 0.2, scope=scope).module_gates(host.adapter, data)
    gates = {where: (own.parts, own.remainder) for where, own in of_kl.items()}
    other = logits_under(host.reference, decomposition, gates, host.inputs(3))[:, -1, 3]
    assert float(reached.sum()) > float(other.sum()) + 0.1


def test_a_function_of_the_batch_and_an_output_that_compares_with_the_model(torch_gpt2: Host) -> None:
    decomposition = decomposed(torch_gpt2)
    tokens = torch_gpt2.inputs(3)
    data = al.batch(tokens, labels=torch.tensor([1, 2, 3]), positions=5)
    small = PGD(decomposition, 3, 0.2, output=against_its_label)
    gates = {at: (own.parts, own.remainder) for at, own in small.module_gates(torch_gpt2.adapter, data).items()}
    logits = logits_under(torch_gpt2.reference, decomposition, gates, tokens)[:, 5]
    right = torch.tensor([1, 2, 3])[:, None]
    others = logits.scatter(1, right, -torch.inf).max(1).values
    expected = -(logits.gather(1, right)[:, 0] - others)
    found = small.search(torch_gpt2.adapter, data)
    assert torch.allclose(found.loss, expected.float(), atol=1e-4)
    here = PGD(decomposition, 3, 0.2, output=al.KL()).search(torch_gpt2.adapter, data)
    gates = {
        at: (own.parts, own.remainder)
        for at, own in PGD(decomposition, 3, 0.2, output=al.KL()).module_gates(torch_gpt2.adapter, data).items()
    }
    masked = logits_under(torch_gpt2.reference, decomposition, gates, tokens)[:, 5]
    clean = models.logits_of(torch_gpt2.reference, tokens)[:, 5]
    kl = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=one) for one in (clean, masked)))
    assert torch.allclose(here.loss, kl.float(), atol=1e-4)  # of the scored position alone


@pytest.mark.parametrize("held", HOSTS)
def test_an_output_of_activations(held: str) -> None:
    host = host_of(held, "gpt2")
    decomposition, data = decomposed(host), host.data(3)
    base = PGD(decomposition, 3, 0.2, output=Strength())
    found = base.search(host.adapter, data)
    gates = {where: (own.parts, own.remainder) for where, own in base.module_gates(host.adapter, data).items()}
    seen: list[Tensor] = []
    module, _ = models.module_of(host.reference, 1, "mlp.in")
    handle = module.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    logits_under(host.reference, decomposition, gates, host.inputs(3))
    handle.remove()
    assert torch.allclose(found.loss, seen[0].norm(dim=-1).mean(1), atol=1e-4)
    assert bool((found.loss > found.trace[0] + 1e-3).all())


def test_it_goes_on_under_a_mask_with_its_own_output(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    again = PGD(decomposition, 2, 0.1, output=third, reoptimise=True)
    once = PGD(decomposition, 2, 0.1, output=third)
    registry = decomposition.registry(torch_gpt2.adapter)
    before, after = (al.MaskedModel(torch_gpt2.adapter, registry, output=third, base=one) for one in (once, again))
    mask = before.mask("L1.attn.o rank_one 2")
    assert bool((after(mask, data) >= before(mask, data) - 1e-6).all())
    assert bool((after(mask, data) > before(mask, data) + 1e-3).any())


def test_what_is_made_large_is_recorded(torch_gpt2: Host) -> None:
    decomposition = decomposed(torch_gpt2)
    described = [PGD(decomposition, output=one).describe()["output"] for one in ("kl", "mse", al.KL(), third)]
    assert described[:2] == ["kl", "mse"]
    assert described[2] == al.KL().describe()
    assert len({json.dumps(one, sort_keys=True) for one in described}) == 4
    versions = {PGD(decomposition, output=one).version for one in ("kl", al.KL(), third, against_its_label)}
    assert len(versions) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: PGD(d, output="accuracy"), "'kl'"),
        (lambda d: PGD(d, output=3), r"al.KL\(\), or a function of logits and batch; got 3"),
        (lambda d: PGD(d, output=al.KL), r"al.KL\(\), or a function of logits and batch"),
        (lambda d: PGD(d, output=Strength(), reoptimise=True), "reads L1.mlp.in.out: leave reoptimise out"),
    ],
)
def test_bad_input(call: Any, message: str, torch_gpt2: Host) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{message}|type"):  # beartype may be first
        call(decomposed(torch_gpt2))


def test_an_output_that_gives_no_number_for_each_example_is_refused(torch_gpt2: Host) -> None:
    base = PGD(decomposed(torch_gpt2), 1, output=lambda logits: logits.mean())
    with pytest.raises(al.InputError, match=r"one float for each row, \[2\]"):
        base.search(torch_gpt2.adapter, torch_gpt2.data(2))
