"""The baseline in which no component is scaled down, and what baselines are called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ablationlens as al
from ablationlens.spd import PGD, Decomposition, Deterministic, Stochastic
from ablationlens.spd_experiment import Whole
from ablationlens.spd_experiment.whole import baseline_of
from tests import models
from tests.conftest import Host, host_of
from tests.spd.small import COUNT, PLACES, decomposed, matrix_of

HELD = [("torch", "gpt2"), ("transformer_lens", "llama"), ("nnsight", "gpt2"), ("torch", "mlp")]


def logits(host: Host, base: Whole) -> Tensor:
    model = al.MaskedModel(host.adapter, decomposed(host).registry(host.adapter), base=base, output=al.Logit(2))
    return model.logits(model.mask(), host.data(3))


@pytest.mark.parametrize(("held", "name"), HELD)
def test_with_remainders_it_is_the_target_model_to_the_last_bit(held: str, name: str) -> None:
    host = host_of(held, name)
    plain = al.MaskedModel(host.adapter, decomposed(host).registry(host.adapter), output=al.Logit(2))
    assert torch.equal(logits(host, Whole(decomposed(host))), plain.logits(plain.mask(), host.data(3)))


@pytest.mark.parametrize(("held", "name"), HELD)
def test_without_remainders_it_is_the_model_whose_weights_are_the_sums_of_components(held: str, name: str) -> None:
    host = host_of(held, name)
    edited = models.untied(host.reference)
    with torch.no_grad():
        for where, part in decomposed(host).items():
            matrix_of(edited, *where)[0].copy_((part.V.double() @ part.U.double()).T)
    found = logits(host, Whole(decomposed(host), remainder="dropped"))
    assert models.close(found, models.logits_of(edited, host.inputs(3)), 2e-5)
    assert models.distance(found, models.logits_of(host.reference, host.inputs(3))) > 1e-2


@given(importance=st.floats(0, 1, width=32))
def test_gates_are_exactly_1_whatever_the_importances(importance: float) -> None:
    host = host_of("torch", "gpt2")
    importances = dict.fromkeys(PLACES, torch.full((3, 7, COUNT), importance))
    for remainder, gate in (("kept", 1.0), ("dropped", 0.0)):
        mode = Whole(decomposed(host), remainder=remainder)  # type: ignore[arg-type]
        sources: Any = mode.sources(host.adapter, host.data(3), importances, 0)
        found = mode.gates_with(importances, sources)
        assert all(torch.equal(own.parts, torch.ones(3, 7, COUNT)) for own in found.values())
        assert all(torch.equal(own.remainder, torch.full((3, 7, 1), gate)) for own in found.values())


def test_its_remainder_has_no_source(torch_gpt2: Host) -> None:
    """Where no types are checked."""
    with pytest.raises(al.InputError, match="'kept', for the target model, or 'dropped', for its reconstruction"):
        inspect.unwrap(Whole.__init__)(object.__new__(Whole), decomposed(torch_gpt2), remainder="source")


class Own(Stochastic):
    """A mode of the user's own, made from another."""


class Halves(al.spd.modes.Mode):
    """One that is made from none."""

    def sources(self, adapter: Any, data: Any, importances: Mapping[Any, Tensor], sample: int) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Whole, "target"),
        (lambda d: Whole(d, remainder="dropped"), "reconstruction"),
        (Deterministic, "importances, without remainders"),
        (lambda d: Deterministic(d, remainder="kept"), "importances, with remainders"),
        (Stochastic, "stochastic, remainders masked too"),
        (lambda d: Stochastic(d, remainder="kept"), "stochastic, with remainders"),
        (lambda d: PGD(d, remainder="dropped"), "adversarial, without remainders"),
        (PGD, "adversarial, remainders masked too"),
        (Own, "stochastic, remainders masked too"),
        (Halves, "Halves"),
    ],
)
def test_baselines_are_named_with_what_becomes_of_remainders(make: Any, words: str, torch_gpt2: Host) -> None:
    own: Decomposition = decomposed(torch_gpt2)
    assert baseline_of(make(own)) == words
