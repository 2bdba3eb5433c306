"""Which axes grow with the input."""

from __future__ import annotations

import torch

import ablationlens as al
from ablationlens.adapters.growth import another_example, grown_axes


def test_another_example_has_twice_the_rows_and_one_position_less() -> None:
    batch = al.Batch(
        inputs={
            "input_ids": torch.arange(10).reshape(2, 5),
            "attention_mask": torch.ones(2, 5, dtype=torch.long),
            "decoder_input_ids": torch.zeros(2, 3, dtype=torch.long),
            "pixel_values": torch.zeros(2, 5, 5, 5),
        },
        labels=None,
        scored=None,
    )
    other = another_example(batch)
    assert {name: tuple(value.shape) for name, value in other.inputs.items()} == {
        "input_ids": (4, 4),
        "attention_mask": (4, 4),
        "decoder_input_ids": (4, 2),
        "pixel_values": (4, 5, 5, 5),
    }
    assert torch.equal(other.inputs["input_ids"][2:], batch.inputs["input_ids"][:, :4])


def test_one_position_becomes_two_and_a_ready_made_mask_keeps_its_shape() -> None:
    batch = al.Batch(
        inputs={"input_ids": torch.zeros(1, 1, dtype=torch.long), "attention_mask": torch.zeros(1, 1, 1, 1)},
        labels=None,
        scored=None,
    )
    other = another_example(batch)
    assert tuple(other.inputs["input_ids"].shape) == (2, 2)
    assert tuple(other.inputs["attention_mask"].shape) == (2, 1, 2, 2)


def test_inputs_without_positions_are_doubled_alone() -> None:
    other = another_example(al.Batch(inputs={"input": torch.zeros(3, 3, 8, 8)}, labels=None, scored=None))
    assert tuple(other.inputs["input"].shape) == (6, 3, 8, 8)


def test_axes_that_differ() -> None:
    assert grown_axes((1, 4, 4, 8), (2, 3, 4, 8)) == (1,)
    assert grown_axes((1, 4, 4, 4), (2, 4, 3, 3)) == (2, 3)
    assert grown_axes((1, 8), (2, 8)) == ()
    assert grown_axes((1, 8), (2, 8, 1)) is None
