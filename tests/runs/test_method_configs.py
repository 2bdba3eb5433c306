"""Methods as a configuration writes them: names, what decides a result, and alphas that are left open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablationlens.errors import InputError
from ablationlens.masks.designs import random_design
from ablationlens.runs.method_configs import MethodConfig, nearest_alpha


def method(content: object) -> MethodConfig:
    return MethodConfig.model_validate(content)


@given(st.integers(min_value=2, max_value=10**6))
def test_nearest_alpha_is_allowed_and_none_nearer_to_five_percent_is(components: int) -> None:
    alpha = nearest_alpha(components)
    random_design("bernoulli", components, alpha, 1)
    if alpha != 0.05:
        assert alpha > 0.05
        with pytest.raises(InputError, match="too few"):
            random_design("bernoulli", components, alpha - 2e-6, 1)


def test_alphas_that_are_left_open_and_those_that_are_not() -> None:
    assert method("attribute").with_alpha(0.1).alpha == 0.1
    assert method({"attribute": {"alpha": 0.2}}).with_alpha(0.1).alpha == 0.2
    one = method("leave_one_out")
    assert not one.fitted and one.alpha is None and one.with_alpha(0.1) == one


def test_names_and_files() -> None:
    assert (method("leave_one_out").name, method("leave_one_out").slug) == ("leave-one-out", "leave_one_out")
    assert method({"attribute": {"name": "attribute (12.5%)"}}).slug == "attribute_12.5"
    assert method("gradient_x_parameter").slug == "gradient_x_parameter"


def test_what_decides_a_result() -> None:
    first, second = (method({"attribute": {"alpha": 0.1, "name": name}}) for name in "ab")
    assert first.asked(1) == second.asked(1) != first.asked(2)
    assert first.asked(1) != method({"attribute": {"alpha": 0.1, "tolerance": None}}).asked(1)
    assert method("leave_one_out").asked(1) == method("leave_one_out").asked(2)  # which draws nothing
    assert method("shapley").asked(1) != method("shapley").asked(2)
