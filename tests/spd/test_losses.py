"""What a decomposition is trained on, against the formulas of the method in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ablationlens as al
from ablationlens.spd import Faithfulness, Minimality, Reconstruction
from ablationlens.spd.decomposition import Importances
from ablationlens.spd.losses import STANDARD
from tests import models
from tests.conftest import Host, host_of
from tests.spd.small import decomposed


def importances(seed: int = 0) -> dict[Any, Importances]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, shape in enumerate([(3, 4, 5), (3, 4, 2)]):
        raw = torch.randn(shape, generator=generator)
        found[number, "attn.q"] = Importances(raw.clamp(0, 1), torch.where(raw > 1, 1 + 0.01 * (raw - 1), raw.relu()))
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_faithfulness_is_the_mean_square_over_all_entries(name: str) -> None:
    host = host_of("torch", name)
    decomposition = decomposed(host)
    total, entries = 0.0, 0
    for where, part in decomposition.items():
        weight, _ = models.part(host.reference, *where)
        sum_of_parts = torch.einsum("ic,co->oi", part.V.double(), part.U.double())
        total += float((weight.double() - sum_of_parts).square().sum())
        entries += weight.numel()
    found = Faithfulness()(decomposition, decomposition.weights(host.adapter))
    assert float(found) == pytest.approx(total / entries, rel=1e-5)


@pytest.mark.parametrize(("p", "beta"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.5), (0.9, 1.0)])
def test_minimality_is_a_mean_over_rows_summed_over_components(p: float, beta: float) -> None:
    given = importances()
    expected = 0.0
    for one in given.values():
        upper = one.upper.double().reshape(-1, one.upper.shape[-1])
        for component in range(upper.shape[1]):
            total = float(((upper[:, component] + 1e-12) ** p).sum())
            mean = total / len(upper)
            expected += mean + beta * mean * float(torch.log2(torch.tensor(1 + total, dtype=torch.float64)))
    found = Minimality(p=p, beta=beta)(given, 0.3)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_minimality_of_importances_below_0_is_not_nan() -> None:
    """A smooth hard sigmoid goes a little below 0, of which there is no power."""
    raw = torch.linspace(-1, 1, 20)[:, None].requires_grad_()
    squash = al.spd.sigmoids.sigmoid("swish_hard")
    given = {(0, "attn.q"): Importances(squash.lower(raw), squash.upper(raw))}
    assert float(given[0, "attn.q"].upper.min()) < 0
    loss = Minimality(p=0.5)(given, 0.0)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert raw.grad is not None
    assert bool(torch.isfinite(raw.grad).all())


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 2.0), (0.1999, 2.0), (0.2, 2.0), (0.4, 1.5), (0.5, 1.25), (0.6, 1.0), (0.9, 1.0), (1.0, 1.0)],
)
def test_the_power_is_annealed_linearly_between_its_ends(progress: float, expected: float) -> None:
    assert Minimality(p=2.0, p_end=1.0, begin=0.2, end=0.6).power(progress) == pytest.approx(expected)


def test_the_power_stays_without_an_end_and_jumps_where_the_ends_meet() -> None:
    assert {Minimality(p=2.0).power(progress) for progress in (0.0, 0.5, 1.0)} == {2.0}
    jump = Minimality(p=2.0, p_end=1.0, begin=0.5, end=0.5)
    assert [jump.power(progress) for progress in (0.0, 0.499, 0.5, 1.0)] == [2.0, 2.0, 1.0, 1.0]
    never = Minimality(p=2.0, p_end=1.0, begin=1.0)
    assert never.power(0.9999) == 2.0


def test_the_annealed_power_is_the_one_that_counts() -> None:
    given, annealed = importances(), Minimality(p=2.0, p_end=0.5)
    assert float(annealed(given, 0.5)) == pytest.approx(float(Minimality(p=1.25)(given, 0.0)))


def test_names_in_the_history() -> None:
    assert Reconstruction(routing="subset").name == "stochastic_subset"
    assert Reconstruction(adversary=al.spd.Ascent(1)).name == "adversarial_all"
    assert [type(loss).__name__ for loss in STANDARD] == ["Minimality", "Reconstruction", "Reconstruction"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Faithfulness(0.0), "a coefficient is a number above 0; got 0.0: leave the loss out"),
        (lambda: Reconstruction(-1.0), "coefficient"),
        (lambda: Minimality(float("nan")), "coefficient"),
        (lambda: Minimality(p=0.0), "p is a power above 0"),
        (lambda: Minimality(p=float("nan")), "p is a power above 0"),
        (lambda: Minimality(p_end=-1.0), "p_end=-1.0"),
        (lambda: Minimality(begin=0.6, end=0.4), "annealing goes from begin to end"),
        (lambda: Minimality(end=1.1), "annealing goes from begin to end"),
        (lambda: Minimality(beta=-0.1), "beta is a price from 0; got -0.1"),
        (lambda: Reconstruction(routing="half"), "all, layerwise, subset"),
        (lambda: Reconstruction(sampling="gaussian"), "'continuous' or 'binomial'"),
        (lambda: Reconstruction(start="middle"), "random, ones, zeros"),
        (lambda: Reconstruction(adversary="pgd"), r"an adversary is an al.spd.Ascent\(steps, step_size\)"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{message}|type"):  # beartype may be first
        call()


def test_faithfulness_of_the_model_itself_is_0(small: Host) -> None:
    from ablationlens.spd import Decomposition, Part

    weight = small.adapter.weight(*(where := (0, small.adapter.layout.modules[0].name))).detach()
    whole = Decomposition({where: Part(weight.T.clone(), torch.eye(weight.shape[0]))})
    assert float(Faithfulness()(whole, whole.weights(small.adapter))) < 1e-14
