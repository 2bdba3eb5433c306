"""Tables in files: what comes back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ablationlens as al
from ablationlens.evaluate.frames import load_frames, save_frames
from ablationlens.files import save_arrays

FRAMES = {
    "one": pd.DataFrame({"name": ["a", "ü <b>"], "value": [0.1, np.nan], "count": np.array([3, -4], np.int32)}),
    "none": pd.DataFrame({"value": np.array([], dtype=np.float64)}),
}


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    found, header = load_frames(save_frames(tmp_path / "kept", FRAMES, {"n": [1, 2]}), "tables")
    assert header == {"n": [1, 2]}
    assert list(found) == list(FRAMES)
    for name, frame in FRAMES.items():
        pd.testing.assert_frame_equal(found[name], frame)


def test_what_is_not_there_or_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(al.StoreError, match="nowhere"):
        load_frames(tmp_path / "nowhere", "tables")
    other = save_arrays(tmp_path / "other", {"x": np.zeros(3)}, {"kind": "other"})
    with pytest.raises(al.StoreError, match=r"other does not hold tables \('columns'\)"):
        load_frames(other, "tables")
    lacking = save_arrays(tmp_path / "lacking", {}, {"columns": {"one": [["value", None]]}, "header": {}})
    with pytest.raises(al.StoreError, match=r"lacking does not hold tables .*one\.value"):
        load_frames(lacking, "tables")
