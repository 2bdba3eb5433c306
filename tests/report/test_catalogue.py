"""Which figures a report shows of a result: of a study of domains, those that it has the data for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ablationlens.diagnostics import Domains
from ablationlens.report.catalogue import kind_of
from tests.plots.known_domains import named


def titles(one: Domains) -> list[str]:
    drawn = [draw(one) for draw in kind_of(one).draw]
    return [str(figure.layout.title.text) for figure in drawn if figure is not None]


def of(**weights: np.ndarray) -> dict[str, np.ndarray]:
    return weights


def rows(seed: int, examples: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((examples, 36))


def test_domains_by_layer_by_module_and_the_two_least_alike() -> None:
    a, b = rows(0), rows(1)
    found = titles(named(of(a=a, close=a + 0.1 * b, far=b)))
    assert "Mean weight by layer in each domain" in found
    assert "Mean weight by module in each domain" in found
    (scatter,) = [title for title in found if "close" in title or "far" in title]
    assert "far" in scatter


def test_a_domain_of_one_example_is_in_no_scatter() -> None:
    study = named(of(a=rows(0), b=rows(1), single=-rows(0, 1)))
    assert not any("single" in title for title in titles(study))
    assert len(titles(named(of(a=rows(0, 1), b=rows(1, 1))))) == len(titles(study)) - 1


def test_weights_that_do_not_vary_have_no_scatter() -> None:
    flat: Any = np.ones((3, 36))
    assert len(titles(named(of(a=flat, b=2 * flat)))) == len(titles(named(of(a=rows(0), b=rows(1))))) - 1
