"""The aliases, used as a checker would use them."""

from __future__ import annotations

import pytest
import torch
from beartype.door import is_bearable

from ablationlens import types


@pytest.mark.parametrize(
    ("value", "alias", "fits"),
    [
        (torch.ones(2, 3), types.Mask, True),
        (torch.ones(2, 4, 3), types.Mask, True),
        (torch.ones(3), types.Mask, False),
        (torch.ones(2, 3, dtype=torch.long), types.Mask, False),
        (torch.ones(2, 3, 4), types.Logits, True),
        (torch.ones(2), types.Scores, True),
        (torch.ones(2, 2), types.Scores, False),
        (torch.ones(2, dtype=torch.long), types.Features, True),
        ("in", types.Side, True),
        ("middle", types.Side, False),
    ],
)
def test_aliases_mean_what_they_say(value: object, alias: object, fits: bool) -> None:
    assert is_bearable(value, alias) == fits  # type: ignore[arg-type]
