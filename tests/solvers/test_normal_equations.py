"""Normal equations from sums over draws, against NumPy on the masks themselves and exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from scipy.linalg import eigvalsh

from ablationlens.solvers.design import Design, survey
from ablationlens.solvers.normal_equations import Sums, lift, mean_diagonal, without_constant
from tests.solvers.problems import bernoulli, fixed_size

DRAWS, COMPONENTS, TARGETS = 70, 9, 3


def masks_of(kind: str) -> np.ndarray:
    hard = bernoulli(DRAWS, COMPONENTS)
    return hard if kind == "hard" else 0.2 + 0.7 * np.random.default_rng(3).random(hard.shape)


def outputs_of() -> np.ndarray:
    return 1e3 + np.random.default_rng(4).normal(size=(DRAWS, TARGETS))


def full(lower: np.ndarray) -> np.ndarray:
    """Both triangles of a matrix of which one is there."""
    assert not np.triu(lower, 1).any()
    return lower + np.tril(lower, -1).T


@pytest.mark.parametrize("kind", ["hard", "partial"])
@pytest.mark.parametrize("cuts", [(0, DRAWS), (0, 1, 33, DRAWS)])
def test_sums_in_pieces_are_the_centred_products_of_all_draws(kind: str, cuts: tuple[int, ...]) -> None:
    masks, outputs = masks_of(kind), outputs_of()
    sums = Sums(survey(masks), outputs)
    for start, stop in itertools.pairwise(cuts):
        sums.add(start, stop)
    assert sums.draws == DRAWS
    centred, deviations = masks - masks.mean(axis=0), outputs - outputs.mean(axis=0)
    np.testing.assert_allclose(full(sums.centred_gram()), centred.T @ centred, atol=1e-11)
    np.testing.assert_allclose(sums.centred_cross(), centred.T @ deviations, atol=1e-10)
    np.testing.assert_allclose(sums.mean_output, outputs.mean(axis=0), rtol=1e-14)
    for target in range(TARGETS):
        np.testing.assert_allclose(sums.centred_square(target), (deviations[:, target] ** 2).sum(), rtol=1e-10)
    weights = np.random.default_rng(5).normal(size=(COMPONENTS, TARGETS))
    np.testing.assert_allclose(sums.bias(weights), (outputs - masks @ weights).mean(axis=0), rtol=1e-13)


def test_some_draws_are_the_normal_equations_of_those_alone() -> None:
    """As for a validation: the means are of the draws that were counted, and not of all."""
    masks, outputs = masks_of("partial"), outputs_of()
    sums = Sums(survey(masks), outputs)
    sums.add(0, 50)
    some, given = masks[:50] - masks[:50].mean(axis=0), outputs[:50] - outputs[:50].mean(axis=0)
    np.testing.assert_allclose(full(sums.centred_gram()), some.T @ some, atol=1e-11)
    np.testing.assert_allclose(sums.centred_cross(), some.T @ given, atol=1e-10)
    np.testing.assert_allclose(sums.mean_output, outputs[:50].mean(axis=0), rtol=1e-14)


def test_the_gram_of_hard_masks_is_rounded_once() -> None:
    masks = masks_of("hard")
    sums = Sums(survey(masks), outputs_of())
    sums.add(0, DRAWS)
    counts = masks.astype(int)
    for i, j in ((0, 0), (4, 1), (8, 7)):
        both, one, other = int((counts[:, i] * counts[:, j]).sum()), int(counts[:, i].sum()), int(counts[:, j].sum())
        assert sums.centred_gram()[i, j] == float(Fraction(DRAWS * both - one * other, DRAWS))


def test_penalties_are_in_units_of_the_components_that_vary() -> None:
    masks = masks_of("hard")
    masks[:, 2] = True
    centred = masks - masks.mean(axis=0)
    gram = centred.T @ centred
    expected = np.delete(np.diag(gram), 2).mean()
    assert mean_diagonal(np.tril(gram), survey(masks)) == pytest.approx(expected, rel=1e-12)
    still = np.ones((5, 3), dtype=bool)
    assert mean_diagonal(np.zeros((3, 3)), survey(still)) == 1.0


@pytest.mark.parametrize("level_open", [False, True])
def test_directions_without_draws_are_lifted_and_no_others(level_open: bool) -> None:
    masks = fixed_size(DRAWS, COMPONENTS, 5) if level_open else masks_of("hard")
    masks = np.column_stack([masks, np.zeros(DRAWS, bool), np.ones(DRAWS, bool)])
    design = survey(masks)
    assert design.level_open == level_open
    centred = masks - masks.mean(axis=0)
    gram = centred.T @ centred
    before = eigvalsh(gram)
    empty = 2 + level_open
    assert (before[:empty] < 1e-9).all()
    after = eigvalsh(full(lift(np.asfortranarray(np.tril(gram)), design, 1000.0)))
    np.testing.assert_allclose(after, sorted([*before[empty:], *[1000.0] * empty]), atol=1e-8)


def test_weights_of_components_that_never_vary_are_zero() -> None:
    masks = masks_of("hard")
    masks[:, [1, 6]] = True, False
    weights = without_constant(np.full((COMPONENTS, 2), 1e-17), survey(masks))
    assert np.flatnonzero(weights.any(axis=1)).tolist() == [0, 2, 3, 4, 5, 7, 8]


def test_counts_are_single_precision_only_where_it_holds_them() -> None:
    masks = masks_of("hard")
    plain = survey(masks)
    many = Design(np.broadcast_to(masks[:1], (2**24, COMPONENTS)), True, plain.origin, plain.varying, False)
    outputs = np.broadcast_to(0.0, (2**24, 1))
    assert Sums(plain, outputs_of())._gram.dtype == np.float32
    assert Sums(many, outputs)._gram.dtype == np.float64
    assert Sums(survey(masks_of("partial")), outputs_of())._gram.dtype == np.float64
