"""Words and numbers of figures."""

from __future__ import annotations

from typing import Any

import pytest

from ablationlens.plots.labels import counted, escaped, fixed, output_name, percent, shortened, signed, spaced


@pytest.mark.parametrize(
    ("provenance", "name"),
    [
        ({}, "output"),
        ({"output": "Margin"}, "margin"),
        ({"output": {"output": "LogitDifference", "a": 1, "b": 2}}, "logit difference"),
        ({"output": {"output": "KL", "direction": "clean||ablated"}}, "KL"),
        ({"output": {"output": "Custom", "function": {"name": "notebook.my_score"}}}, "my_score"),
        ({"output": "Margin", "gap": [1.0]}, "share of the gap"),
        ({"output": "Margin", "method": "internal influence"}, "margin per unit of activation"),
    ],
)
def test_output_name(provenance: dict[str, Any], name: str) -> None:
    assert output_name(provenance) == name


def test_text() -> None:
    assert spaced("GaussianNoise") == "gaussian noise"
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("short", 5) == "short"
    assert escaped("<b> & 'c'") == "&lt;b&gt; &amp; 'c'"


def test_numbers() -> None:
    assert percent(0.125) == "12.5%"
    assert signed(-0.01234) == "\u22120.0123"
    assert signed(2.0) == "+2.00"
    assert fixed(-0.456) == "\u22120.46"
    assert fixed(float("nan")) == "undefined"
    assert (counted(1, "head"), counted(4608, "row")) == ("1 head", "4,608 rows")
