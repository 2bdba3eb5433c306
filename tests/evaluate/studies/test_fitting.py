"""How studies call a method: with the arguments that it has, and at a cost that is what it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens import studies
from ablationlens.evaluate.studies.fitting import Fitting, name_of
from tests.evaluate.games import game, scales, weighted
from tests.evaluate.studies.known import rows_run

MODEL, DATA = game([1.0, 2.0, 3.0]), scales(1, 2)


def fitting(method: Callable[..., Any], draws: int = 50) -> Fitting:
    return Fitting(method, draws, 7, None, False)


def test_a_method_gets_the_arguments_that_it_has() -> None:
    seen: list[dict[str, Any]] = []

    def everything(model: al.MaskedModel, data: al.Batch, **settings: Any) -> al.Attribution:
        seen.append(settings)
        return weighted(model, data, np.ones(3))

    def few(model: al.MaskedModel, data: al.Batch, alpha: float) -> al.Attribution:
        return everything(model, data, alpha=alpha)

    fitting(everything)(MODEL, DATA, alpha=0.1)
    fitting(few)(MODEL, DATA, alpha=0.2)
    fitting(functools.partial(everything, draws=9, own=True))(MODEL, DATA, alpha=0.3, draws=1)
    fitting(everything)(MODEL, DATA, alpha=0.4, seed=8)
    study = {"draws": 50, "seed": 7, "rows": None, "show_bar": False}
    assert seen == [
        {"alpha": 0.1, **study},
        {"alpha": 0.2},
        {"alpha": 0.3, **study, "draws": 9, "own": True},
        {"alpha": 0.4, **study, "seed": 8},
    ]


def test_what_returns_no_attribution_is_refused() -> None:
    with pytest.raises(al.InputError, match="returns an Attribution, as al.path_gradient does; got list"):
        fitting(lambda model, data, **_: [1.0])(MODEL, DATA, alpha=0.1)
    with pytest.raises((al.InputError, TypeError), match="method is a function such as al.path_gradient|Type-check"):
        fitting("coar")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "draws"),
    [
        (al.path_gradient, 50),
        (al.coar, 50),
        (functools.partial(al.coar, draws=90, solver="least_squares"), 90),
        (al.leave_one_out, None),
        (al.attribute, None),
        (functools.partial(al.attribute, budget=200, tolerance=None), None),
    ],
    ids=["path", "coar", "own draws", "loo", "attribute", "own budget"],
)
def test_what_a_fit_costs_and_how_many_draws_it_has(
    method: Callable[..., al.Attribution], draws: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = game(np.arange(1.0, 21.0))
    run = rows_run(model, monkeypatch)
    one = fitting(method)
    found = one(model, DATA, alpha=0.2)
    stated = one.rows_of(20, 2, 1)
    assert stated is not None
    if name_of(method) == "attribute":  # which stops early, or leaves less than a gradient of its budget
        assert sum(run) <= stated
        assert stated == 2 * (200 if isinstance(method, functools.partial) else 1000)
    else:
        assert stated == sum(run)
    assert one.own_draws() == draws
    assert draws is None or found.provenance["draws"] == draws


def test_costs_of_several_fits_and_other_draws() -> None:
    assert fitting(al.path_gradient).rows_of(20, 4, 3) == 3 * 4 * (150 + 6 + 1)
    assert fitting(al.coar).rows_of(20, 4, 2, draws=10) == 2 * 4 * 11
    assert fitting(lambda model, data: weighted(model, data, np.ones(3))).rows_of(20, 4, 3) is None


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (al.leave_one_out, "varies alpha, and the method leave_one_out takes none: give one that takes it"),
        (functools.partial(al.coar, alpha=0.1), "varies alpha, and the method coar has alpha=0.1 set"),
    ],
)
def test_what_a_study_varies_the_method_must_take(method: Callable[..., al.Attribution], match: str) -> None:
    fitting(al.coar).check_varies("alpha")
    with pytest.raises(al.InputError, match=match):
        fitting(method).check_varies("alpha")


def test_the_record_has_the_draws_of_the_method() -> None:
    """Not those that the study would have given it."""
    for method, draws in ((functools.partial(al.coar, draws=40), 40), (al.leave_one_out, None), (al.coar, 60)):
        named = {"outputs": {"value": lambda logits: logits[:, 0]}, "alpha": 0.4, "fit_draws": 60, "draws": 5}
        assert studies.output_function(MODEL, DATA, method=method, **named).provenance["fit_draws"] == draws  # type: ignore[arg-type]
        study = studies.out_of_distribution(MODEL, {"a": DATA}, method=method, alpha=0.4, fit_draws=60, draws=5)
        assert study.provenance["fit_draws"] == draws
