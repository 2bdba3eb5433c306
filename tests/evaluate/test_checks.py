"""What does not belong together is refused before anything runs, by name."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.evaluate.checks import check_alike, check_belong, check_seeds, elsewhere, fingerprint, named
from ablationlens.results import Attribution
from tests.evaluate.games import game, scales, weighted

WEIGHTS = np.array([1.0, 4.0, 2.0])


@pytest.fixture
def model() -> al.MaskedModel:
    return game(WEIGHTS)


def of(model: al.MaskedModel, data: al.Batch, /, **provenance: Any) -> Attribution:
    return replace(weighted(model, data, WEIGHTS), provenance=provenance)


def test_one_attribution_goes_by_its_method_and_several_by_their_names(model: al.MaskedModel) -> None:
    one = of(model, scales(1, 2))
    assert named(one, "line") == {"given": one}
    assert list(named({"b": one, "a": one}, "line")) == ["b", "a"]


@pytest.mark.parametrize("given", [{}, [], None, 5, {"a": 1}])
def test_what_is_no_attribution_is_refused_with_the_line_to_type(given: Any) -> None:
    with pytest.raises((al.InputError, TypeError), match=r"by name, al\.compare\(\{\.\.\.\}\)|type"):
        named(given, "al.compare({...})")


def test_attributions_belong_to_a_model_and_its_data(model: al.MaskedModel) -> None:
    data = scales(1, 2)
    check_belong(model, data, {"a": of(model, data), "b": of(model, data, data={"fingerprint": data.fingerprint()})})
    wider = game([*WEIGHTS, 1.0])
    with pytest.raises(al.InputError, match=r"'b' is of another registry \(4 components, the model has 3\)"):
        check_belong(model, data, {"a": of(model, data), "b": weighted(wider, data, np.ones(4))})
    with pytest.raises(al.InputError, match="'a' is of 2 examples, the data has 3"):
        check_belong(model, scales(1, 2, 3), {"a": of(model, data)})
    with pytest.raises(al.InputError, match="'a' is of other data"):
        check_belong(model, scales(1, 3), {"a": of(model, data, data={"fingerprint": data.fingerprint()})})
    with pytest.raises((al.InputError, TypeError), match="Batch|type"):
        check_belong(model, 5, {})  # type: ignore[arg-type]


def test_another_model_or_output_is_warned_of(model: al.MaskedModel, caplog: pytest.LogCaptureFixture) -> None:
    data, here = scales(1, 2), model.describe()
    other = game(WEIGHTS, constant=1.0)
    other.adapter.model.gates.weight.data.mul_(2)
    made = {"model": other.describe()["model"], "output": {"output": "another"}}
    assert elsewhere({}, model) == []
    assert elsewhere(here, model) == []
    assert elsewhere(made, model) == ["output", "model"]
    elsewhere_too = {"model": {**made["model"], "host": "nnsight"}}  # another host may number its weights otherwise
    assert elsewhere(elsewhere_too, model) == []
    assert elsewhere({"model": "gone"}, model) == []
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        check_belong(model, data, {"a": of(model, data, **made)})
    assert [record.args for record in caplog.records] == [("a", "output"), ("a", "model")]


def test_attributions_that_are_compared_are_of_the_same_components_and_examples(model: al.MaskedModel) -> None:
    data = scales(1, 2)
    first = of(model, data, data={"fingerprint": "1"})
    check_alike({"a": first, "b": of(model, data), "c": of(model, data, data={"fingerprint": "1"})})
    wrong = {
        r"'a' and 'b' are of different registries \(3 and 4 components\)": weighted(game(np.ones(4)), data, np.ones(4)),
        "'a' and 'b' are of 2 and 3 examples": of(model, scales(1, 2, 3)),
        "'a' and 'b' are of different data": of(model, data, data={"fingerprint": "2"}),
    }
    for message, other in wrong.items():
        with pytest.raises(al.InputError, match=message):
            check_alike({"a": first, "b": other})
    turned = of(model, data)
    turned.weights["example"] = turned.weights["example"].values[::-1]
    with pytest.raises(al.InputError, match="of examples with other names, or in another order"):
        check_alike({"a": first, "b": turned})


def test_a_second_seed_differs_in_its_seed_alone(model: al.MaskedModel) -> None:
    data = scales(1, 2)
    first = {"coar": of(model, data, method="COAR", draws=100, alpha=0.1, seed=0)}
    check_seeds(first, {"coar": of(model, data, method="COAR", draws=100, alpha=0.1, seed=1)})
    check_seeds(first, {"coar": of(model, data, alpha=0.1)})  # what is not noted is not compared
    check_seeds(first, {})
    wrong = {
        r"alpha 0.1 and 0.2, draws 100 and 50$": of(model, data, draws=50, alpha=0.2, seed=1),
        r"draws 100 and 50$": of(model, data, draws=50, alpha=0.1, seed=1),
        r"both attributions 'coar' have the seed 0, .*: seed=1$": of(model, data, draws=100, seed=0),
    }
    for message, second in wrong.items():
        with pytest.raises(al.InputError, match=message):
            check_seeds(first, {"coar": second})
    with pytest.raises(al.InputError, match="a second seed of 'lime', but no first: .* 'coar'"):
        check_seeds(first, {"lime": first["coar"]})
    with pytest.raises((al.InputError, TypeError), match="is an attribution; got int|type"):
        check_seeds(first, {"coar": 5})  # type: ignore[dict-item]
    budgeted = {"shapley": of(model, data, budget=100, draws=37, seed=0)}  # draws are what early stopping made of it
    check_seeds(budgeted, {"shapley": of(model, data, budget=100, draws=41, seed=1)})
    with pytest.raises(al.InputError, match="budget 100 and 200"):
        check_seeds(budgeted, {"shapley": of(model, data, budget=200, draws=41, seed=1)})


def test_the_fingerprint_of_data_is_that_of_the_provenance(model: al.MaskedModel) -> None:
    data = scales(1, 2)
    assert fingerprint(of(model, data)) is None
    assert fingerprint(of(model, data, data="gone")) is None
    assert fingerprint(al.leave_one_out(model, data, show_bar=False)) == data.fingerprint()
