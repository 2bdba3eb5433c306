"""What is ablated or freed: names as they are given, and the columns and masks that they become."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.spd_experiment.asked import Arm, Asked
from ablationlens.spd_experiment.slices import Restricted, slice_of
from tests.conftest import Host
from tests.diagnostics.test_patterns import padded
from tests.spd.small import COUNT, PLACES, decomposed

PART = "L0.attn.q rank_one 2"
OTHER = "L1.attn.o rank_one 0"
REST = "L1.mlp.out remainder"
ROWS = [[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]]


def asked(host: Host, ablate: Any, free: Any = None) -> Asked:
    return Asked(host.adapter, decomposed(host), ablate, free)


def names(found: Asked, arm: Arm) -> list[str]:
    return [found.split.registry.names[column] for column in arm.columns]


# -- what names become -------------------------------------------------------------------------------------------------


def test_arms_are_in_order_with_the_columns_of_what_they_name(torch_gpt2: Host) -> None:
    found = asked(
        torch_gpt2,
        {"nothing": None, "no more": [], "head": "L0.head 3", "part": PART, "rest": REST},
        {"freed": [OTHER, PART]},
    )
    assert found.arms == (
        Arm("nothing", "ablate", (), (), True, ()),
        Arm("no more", "ablate", (), (), True, ()),
        Arm("head", "ablate", ("L0.head 3",), (), True, ("L0.head 3",)),
        Arm("part", "ablate", (), found.arms[3].columns, True, (PART,)),
        Arm("rest", "ablate", (), found.arms[4].columns, True, (REST,)),
        Arm("freed", "free", (), found.arms[5].columns, True, (OTHER, PART)),
    )
    assert [names(found, arm) for arm in found.arms[3:]] == [[PART], [REST], [OTHER, PART]]


def test_several_things_come_in_anything_that_can_be_gone_through_and_count_once(torch_gpt2: Host) -> None:
    own = decomposed(torch_gpt2).registry(torch_gpt2.adapter)
    component, head = own[own.column(PART)], torch_gpt2.adapter.registry("head")[5]
    found = asked(
        torch_gpt2,
        {
            "tuple": (PART, OTHER),
            "generator": (name for name in [PART, OTHER]),
            "as itself": component,
            "as both": [component, PART],
            "head as itself": [head, "L0.head 0"],
        },
    )
    assert [names(found, arm) for arm in found.arms] == [[PART, OTHER], [PART, OTHER], [PART], [PART], []]
    assert found.arms[-1].heads == ("L1.head 1", "L0.head 0")


def test_slices_have_columns_of_their_own_and_components_theirs_with_all_of_their_slices(torch_gpt2: Host) -> None:
    first, second = Restricted(PART, 0), Restricted(PART, 3)
    found = asked(
        torch_gpt2,
        {
            "slice": first,
            "both": [first, second],
            "with another": [second, OTHER],
            "whole": PART,
            "twice": [first, PART],
        },
        {"freed": PART},
    )
    names_of = found.split.registry.names
    assert len(names_of) == len(PLACES) * (COUNT + 1) + 2
    own = decomposed(torch_gpt2)
    known = own.registry(torch_gpt2.adapter)
    first_at, second_at = (found.split.column(slice_of(one, own, known, torch_gpt2.adapter)) for one in (first, second))
    whole = (names_of.index(PART), first_at, second_at)
    columns = {arm.name: arm.columns for arm in found.arms}
    assert columns == {
        "slice": (first_at,),
        "both": (first_at, second_at),
        "with another": (second_at, names_of.index(OTHER)),
        "whole": whole,
        "twice": (first_at, whole[0], second_at),
        "freed": whole,
    }
    assert [arm.whole for arm in found.arms] == [False, False, False, True, False, True]
    assert found.arms[2].what == (f"{PART} in head 3", OTHER)


def test_a_model_without_attention_has_components_alone(small: Host) -> None:
    name = decomposed(small).registry(small.adapter).names[1]
    found = asked(small, {"part": name})
    assert found.heads is None
    assert names(found, found.arms[0]) == [name]
    with pytest.raises(al.UnknownNameError, match="no component 'L0.head 0'"):
        asked(small, {"head": "L0.head 0"})


# -- masks -------------------------------------------------------------------------------------------------------------


def test_masks_are_0_where_something_is_ablated_at_its_positions(torch_gpt2: Host) -> None:
    found, data = (
        asked(torch_gpt2, {"part": [PART, REST], "head": "L1.head 2", "nothing": None}),
        padded(ROWS, left=True),
    )
    part, head, nothing = found.arms
    of_parts, of_heads = (al.MaskedModel(torch_gpt2.adapter, one) for one in (found.split.registry, found.heads))  # type: ignore[arg-type]
    count = len(found.split.registry)
    everywhere = np.ones((1, count))
    everywhere[0, list(part.columns)] = 0
    assert np.array_equal(part.mask(of_parts, data, None).numpy(), everywhere)
    assert np.array_equal(head.mask(of_heads, data, None).numpy(), 1.0 - (np.arange(8) == 6)[None])
    assert np.array_equal(nothing.mask(of_parts, data, None).numpy(), np.ones((1, count)))
    assert np.array_equal(nothing.mask(of_parts, data, (0,)).numpy(), np.ones((1, count)))  # whatever the positions
    here = np.ones((3, 5, count))
    for example, at in enumerate(([0, 4], [2, 4], [3, 4])):  # the first and the last token, padded on the left
        for column in part.columns:
            here[example, at, column] = 0
    assert np.array_equal(part.mask(of_parts, data, (0, -1)).numpy(), here)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ablate", "free", "error", "message"),
    [
        ({}, None, al.InputError, r"ablate names what is to be ablated, .*; got \{\}"),
        ("L0.head 3", None, al.InputError, "ablate names what is to be ablated, .*; got 'L0.head 3'"),
        (None, None, al.InputError, "ablate names what is to be ablated"),
        ({"a": PART}, "L0.head 3", al.InputError, "free names what is to be freed"),
        ({"a": 3}, None, al.InputError, "'a' is a head, a component or several: 'L0.head 3'; got int"),
        ({"a": torch.ones(1, 28)}, None, al.InputError, "'a' is a head, a component or several: .*; got Tensor"),
        ({"a": [3]}, None, al.InputError, "'a' holds 3: heads and components go by their names"),
        ({"a": [[PART]]}, None, al.InputError, "'a' holds .*: heads and components go by their names"),
        ({"a": "L0.attn.q rank_one 6"}, None, al.UnknownNameError, r"L0.attn.q rank_one goes from 0 to|did you mean"),
        ({"a": "L0.attn.q rank_one -1"}, None, al.UnknownNameError, "no component"),
        ({"a": "L1.attn.q rank_one 0"}, None, al.UnknownNameError, "no component 'L1.attn.q rank_one 0'"),
        ({"a": "L0.head 4"}, None, al.UnknownNameError, "L0.head goes from 0 to 3"),
        ({"a": ["L0.head 1", PART]}, None, al.InputError, "'a' names a head and a component: ablate them under two"),
        ({"a": [Restricted(PART, 1), "L0.head 1"]}, None, al.InputError, "'a' names a head and a component"),
        ({"baseline": PART}, None, al.InputError, "'baseline' is what nothing was done to: choose another name"),
        ({"a": PART}, {"baseline": PART}, al.InputError, "'baseline' is what nothing was done to"),
        ({"a": PART}, {"a": PART}, al.InputError, "'a' is named twice, in ablate and in free"),
        ({"a": None}, {"b": "L0.head 1"}, al.InputError, "'b' frees L0.head 1: only components have an importance"),
        ({"a": None}, {"b": "L0.attn.q remainder"}, al.InputError, "'b' frees L0.attn.q remainder: a remainder has no"),
        ({"a": None}, {"b": [PART, REST]}, al.InputError, "'b' frees L1.mlp.out remainder"),
        (
            {"a": None},
            {"b": Restricted(PART, 0)},
            al.InputError,
            r"'b' frees L0.attn.q rank_one 2 in head 0: a component is freed whole, free=\{'b': \.\.\.\}",
        ),
    ],
)  # fmt: skip
def test_bad_input(ablate: Any, free: Any, error: type[Exception], message: str, torch_gpt2: Host) -> None:
    unchecked: Any = inspect.unwrap(Asked.__init__)  # as it is where no types are checked
    with pytest.raises(error, match=message):
        unchecked(object.__new__(Asked), torch_gpt2.adapter, decomposed(torch_gpt2), ablate, free)
