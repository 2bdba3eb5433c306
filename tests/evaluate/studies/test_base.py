"""What every study returns: a table that is a copy, and a file that says what it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ablationlens as al
from ablationlens import studies


def study(cls: type[studies.Study] = studies.FitAlpha) -> studies.Study:
    frame = pd.DataFrame({"fit_alpha": [0.1, 0.1], "example": ["<b>", "b"], "pearson": [0.5, np.nan]})
    summary = pd.DataFrame({"fit_alpha": [0.1], "pearson": [0.51234], "undefined": [1]})
    return cls(frame, summary, {"study": "fit alpha", "cost": {"parts": {"fits": None}, "forward_rows": None}})


def test_a_table_can_be_changed_without_changing_the_study() -> None:
    one = study()
    table = one.table()
    table.loc[0, "pearson"] = 0.0
    assert one.table()["pearson"].tolist() == [0.51234]


def test_it_shows_its_table() -> None:
    assert repr(study()).split() == ["fit_alpha", "pearson", "undefined", "0.100", "0.512", "1"]


def test_names_numbers_and_what_is_missing_survive_a_round_trip(tmp_path: Path) -> None:
    one = study()
    back = studies.FitAlpha.load(one.save(tmp_path / "study"))
    assert type(back) is studies.FitAlpha
    pd.testing.assert_frame_equal(back.frame, one.frame)
    pd.testing.assert_frame_equal(back.table(), one.table())
    assert back.table()["undefined"].dtype.kind == "i"
    assert back.provenance == one.provenance


def test_another_study_is_refused_with_the_line_to_type(tmp_path: Path) -> None:
    path = study(studies.SampleSize).save(tmp_path / "study")
    with pytest.raises(al.StoreError, match=r"holds another study: al\.studies\.SampleSize\.load\('.*study'\)"):
        studies.FitAlpha.load(path)
    with pytest.raises(al.StoreError, match=r"al\.studies\.SampleSize\.load"):
        studies.Study.load(path)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(al.StoreError, match="there is no file"):
        studies.FitAlpha.load(tmp_path / "nothing")
    frame = pd.DataFrame({"method": ["a"], "alpha": [0.1]})
    path = al.Ceiling(frame, frame).save(tmp_path / "ceiling")
    with pytest.raises(al.StoreError, match="does not hold a study"):
        studies.FitAlpha.load(path)
    content = study().save(tmp_path / "study").read_bytes()
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    with pytest.raises(al.StoreError):
        studies.FitAlpha.load(tmp_path / "half")


def test_every_study_is_named_where_its_message_says() -> None:
    for cls in studies.Study.__subclasses__():
        assert getattr({"al": al, "al.studies": studies}[cls.home], cls.__name__) is cls
