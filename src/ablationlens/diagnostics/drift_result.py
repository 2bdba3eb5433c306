"""The drift of predictions under masks: its values, its summaries, and the predictions that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Integer

from ablationlens.data.checks import is_integer
from ablationlens.data.tokens import Tokenizer
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.diagnostics.means import over_examples, over_positions
from ablationlens.errors import InputError, StoreError
from ablationlens.files import load_arrays, save_arrays

BY_MASK, BY_PLACE = (*MEASURES, "after"), ("before", "token", "real", "scored")


@dataclass(frozen=True, repr=False)
class Drift:
    """How far predictions under masks are from the clean ones.

    Attributes:
        values: [mask, example, position] of kl, reverse_kl, js (nats), top1_changed (0 or 1), log_probability_change
            (nats) and rank_change (places) of the right class, NaN at padding and where there is no label; ``after``,
            the most probable class. [example, position] of ``before``, the same of the unmodified model; ``token``, the
            id of the input token; ``real`` and ``scored``. Classes and ids are -1 where there are none. Positions are
            those of the logits, padding included, from 0.
        provenance: how it was made, JSON-able.
        tokenizer: turns classes into text, if there is one.
        words: texts of classes and tokens that are known without it.
    """

    values: xr.Dataset
    provenance: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer = None
    words: Mapping[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.table().to_string(index=False, float_format="{:.4g}".format)

    def table(self, *, scored_only: bool = False) -> pd.DataFrame:
        """One row per mask.

        Columns: mask; each measure, its mean over positions and then over examples, and its standard error over
        examples (``kl_se``; NaN with one example); positions, how many real ones there are. The mean of top1_changed is
        the share of predictions that changed.

        Args:
            scored_only: count the scored positions alone, and not all real ones.
        """
        counts = self._counts(scored_only)
        columns: dict[str, Any] = {"mask": self.values["mask"].values}
        for name in MEASURES:
            means = over_positions(self.values[name].values, counts)
            columns[name], columns[f"{name}_se"] = over_examples(means)
        return pd.DataFrame({**columns, "positions": int(counts.sum())})

    def by_example(self, *, scored_only: bool = False) -> pd.DataFrame:
        """One row per mask and example: mask, example, the mean of each measure over positions, positions.

        Args:
            scored_only: count the scored positions alone, and not all real ones.
        """
        counts = self._counts(scored_only)
        masks, examples = self.values["mask"].values, self.values["example"].values
        columns: dict[str, Any] = {"mask": np.repeat(masks, len(examples)), "example": np.tile(examples, len(masks))}
        for name in MEASURES:
            columns[name] = over_positions(self.values[name].values, counts).ravel()
        return pd.DataFrame({**columns, "positions": np.tile(counts.sum(axis=1), len(masks))})

    def changed(self, n: int = 20, *, scored_only: bool = False) -> pd.DataFrame:
        """The predictions that changed most by KL(clean || ablated), as text.

        Columns: mask, example, position (of the logits), token (the input there), before and after (the most probable
        class of the unmodified model and under the mask; ids where no tokenizer is known), kl in nats.

        Args:
            n: how many rows, fewer if there are fewer predictions.
            scored_only: choose among the scored positions alone.

        Raises:
            InputError: if n is no positive integer.
        """
        if not is_integer(n) or n < 1:
            raise InputError(f"n is a number of predictions, an integer from 1; got {n!r}")
        kl = np.where(self._counts(scored_only), self.values["kl"].values, np.nan).ravel()
        order = np.argsort(-kl, kind="stable")[: min(n, int((~np.isnan(kl)).sum()))]  # NaN comes last
        mask, example, position = np.unravel_index(order, self.values["kl"].shape)
        tokens, before = (self.values[name].values[example, position] for name in ("token", "before"))
        after = self.values["after"].values[mask, example, position]
        columns: dict[str, Any] = {
            "mask": self.values["mask"].values[mask],
            "example": self.values["example"].values[example],
            "position": position,
            **{name: self.texts(ids) for name, ids in (("token", tokens), ("before", before), ("after", after))},
            "kl": kl[order],
        }
        return pd.DataFrame(columns)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file, with the texts of the classes and tokens that occur."""
        arrays = {name: self.values[name].values for name in (*BY_MASK, *BY_PLACE)}
        ids = np.unique(np.concatenate([arrays[name].ravel() for name in ("token", "before", "after")])).astype(int)
        words = {str(one): text for one, text in zip(ids.tolist(), self.texts(ids), strict=True)}
        header = {
            "masks": self.values["mask"].values.tolist(),
            "examples": self.values["example"].values.tolist(),
            "words": {} if self.tokenizer is None and not self.words else words,
            "provenance": self.provenance,
        }
        return save_arrays(path, arrays, header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Drift:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is damaged or something else.
        """
        arrays, header = load_arrays(path, "drift")
        try:
            values = labelled(arrays, header["masks"], header["examples"])
            words = {int(one): text for one, text in header["words"].items()}
            return cls(values, header["provenance"], words=words)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"{path} does not hold drift ({error})") from error

    def _counts(self, scored_only: bool) -> Bool[np.ndarray, "example position"]:
        return self.values["scored" if scored_only else "real"].values

    def texts(self, ids: Integer[np.ndarray, " id"]) -> list[str]:
        """Texts of classes or tokens; numbers where none is known, "" for -1."""
        known: dict[int, str] = {-1: "", **self.words}
        if self.tokenizer is not None:
            new = [one for one in np.unique(ids).tolist() if one not in known]
            known.update((one, str(self.tokenizer.decode([one]))) for one in new)
        return [known.get(one, str(one)) for one in ids.tolist()]


def labelled(arrays: Mapping[str, np.ndarray], masks: Sequence[Any], examples: Sequence[str]) -> xr.Dataset:
    """The values of a `Drift`, with names on their axes."""
    variables = {name: (("mask", "example", "position"), arrays[name]) for name in BY_MASK}
    places = {name: (("example", "position"), arrays[name]) for name in BY_PLACE}
    positions = np.arange(arrays["real"].shape[1])
    coordinates = {"mask": list(masks), "example": list(examples), "position": positions}
    return xr.Dataset({**variables, **places}, coords=coordinates)
