"""What beside scores a report can show: studies, and the results of comparing, testing and diagnosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import pandas as pd


@runtime_checkable  # so that beartype can check it in the tests
class Evidence(Protocol):
    """A result that says how it was made and has a table; `catalogue` says which a report can show."""

    @property
    def provenance(self) -> dict[str, Any]: ...

    def table(self) -> pd.DataFrame: ...


Given: TypeAlias = Evidence | Sequence[Evidence] | Mapping[str, Evidence | Sequence[Evidence]]
"""One or several, or title of a section -> such."""
