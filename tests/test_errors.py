"""What users can catch."""

from __future__ import annotations

import pytest

import ablationlens as al
from ablationlens import errors


def test_every_error_is_one_of_ours() -> None:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(found) >= 8
    assert all(issubclass(one, al.AblationLensError) for one in found)
    assert all(getattr(al, one.__name__) is one for one in found)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (al.InputError, ValueError),
        (al.UnknownNameError, KeyError),
        (al.OverlapError, ValueError),
        (al.ConfigError, ValueError),
        (al.MissingExtraError, ImportError),
    ],
)
def test_they_are_also_what_python_would_raise(error: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise error("a 'message'")
    assert str(error("a 'message'")) == "a 'message'"  # no repr, as a KeyError would print
