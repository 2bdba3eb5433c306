"""Domains: which parts of a model serve which kind of data, from the same masks for all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablationlens.attribution import path_gradient
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.diagnostics.domain_agreement import Kind, usable, with_weights
from ablationlens.diagnostics.domain_data import check_data, draws_for
from ablationlens.diagnostics.domain_differences import averages, differences
from ablationlens.diagnostics.domain_held_out import held_out as tested_by_domain
from ablationlens.diagnostics.domain_saving import load as load_domains
from ablationlens.diagnostics.domain_saving import save as save_domains
from ablationlens.diagnostics.domain_similarity import Closer, Similarity, closer, similarity
from ablationlens.errors import InputError
from ablationlens.evaluate.studies.cost import check_draws, check_masks, state_cost
from ablationlens.evaluate.studies.fitting import Fitting, Method
from ablationlens.masked_model import MaskedModel
from ablationlens.registry import Registry
from ablationlens.results import Attribution

log = logging.getLogger("ablationlens")

FROM_ATTRIBUTIONS = ("model", "registry", "ablation", "output", "masks", "packages")
"""What the record of the study takes over from that of an attribution."""


@dataclass(frozen=True, eq=False, repr=False)
class Domains:
    """The attributions of several domains, side by side.

    All intervals and errors are over examples, for the masks that were drawn: what masks leave uncertain is the same
    for every domain, and another seed would change it. `al.stability` says by how much.

    Attributes:
        attributions: domain -> its attribution, one weight for each example and component.
        held_out: one row per domain and weights, on the same held-out masks: pearson (mean over examples of the
            correlation of prediction and output), low and high (its 95% interval), spearman, undefined. The weights
            are those of "each example", or "mean of D": the mean attribution of domain D carried over to every
            example, which leaves the example itself out where D is its own domain (no row if there is no other). None
            if no masks were held out.
        provenance: how it was made, JSON-able; ``notes`` say what a reader should know before trusting it.
    """

    attributions: dict[str, Attribution]
    held_out: pd.DataFrame | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} ({one.weights.shape[0]:,})" for name, one in self.attributions.items())
        return f"Domains({sizes}; {len(self.registry):,} components)"

    @property
    def registry(self) -> Registry:
        return next(iter(self.attributions.values())).registry

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.attributions)

    def by(self, group: str | Sequence[str] = "layer") -> pd.DataFrame:
        """Average weight of each group of components in each domain, for a heat map.

        ``study.by("layer").pivot(index="layer", columns="domain", values="weight")`` is the map itself.

        Args:
            group: a column of the registry, or several: layer, module, kind, index.

        Returns:
            One row per domain and group, in the order of the registry: the columns of the group, domain, weight (mean
            over examples and components, in units of the output), error (standard error of it over examples, NaN for
            one example), size (mean over components of the absolute mean weight, which noise makes larger), components
            (how many; times weight is their sum).

        Raises:
            InputError: if there is no such column.
        """
        return averages(self._weights(), self.registry, group)

    def table(self) -> pd.DataFrame:
        """How alike every two domains are, by correlation: ``similarity().table()``."""
        return self.similarity().table()

    def similarity(self, kind: Kind = "pearson") -> Similarity:
        """How alike the mean attributions of every two domains are, with intervals and an order for a figure.

        Errors of masks that domains share make them look alike, and so they do a domain with itself.

        Args:
            kind: "pearson" (correlation over components) or "cosine" (for which their common level counts).

        Raises:
            InputError: if there is no such similarity.
        """
        return similarity(self._weights(), kind)

    def closer(self, a: str, b: str, *, than: str, kind: Kind = "pearson", corrected: bool = False) -> Closer:
        """Whether domains a and b are more alike than either is to a third, with an interval.

        Args:
            a: a domain.
            b: another.
            than: the third.
            kind: as for `similarity`.
            corrected: compare similarities that are corrected for attenuation: a domain with noisier weights looks
                less like every other.

        Raises:
            InputError: if there are no such three domains.
        """
        self._check_known(a, b, than)
        if len({a, b, than}) < 3:
            raise InputError(f"three different domains are compared; got {a!r}, {b!r} and than={than!r}")
        return closer(self._weights(), a, b, than, kind, corrected)

    def differences(self, a: str, b: str, n: int | None = 20) -> pd.DataFrame:
        """The components whose weights differ most between two domains, by Welch's t over examples.

        The largest of many differences is mostly noise: q says which share of the components down to this one can be
        expected to be false finds (Benjamini and Hochberg 1995). And t is about texts, for the masks that were drawn:
        an error of the masks may differ between domains and yet be the same for all of their texts, so look whether a
        find comes back with another seed.

        Args:
            a: a domain.
            b: another.
            n: how many; None for all of them, which is a scatter of first against second.

        Returns:
            From the largest |t| to the smallest: component, layer, module, kind, index, first and second (mean weights
            in a and b; ``attrs`` holds the names), difference, t, df, p (two-sided), q (over all components). NaN where
            weights are not finite, or vary in neither domain.

        Raises:
            InputError: if there are no such domains, or one of them has a single example.
        """
        self._check_known(a, b)
        return differences(self._weights(), self.registry, a, b, n)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file.

        Raises:
            StoreError: if it cannot be written.
        """
        return save_domains(path, self.attributions, self.held_out, self.provenance)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Domains:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, it is damaged, or it holds something else.
        """
        return cls(*load_domains(path))

    def _weights(self) -> dict[str, np.ndarray]:
        return _weights(self.attributions)

    def _check_known(self, *names: str) -> None:
        for name in names:
            if name not in self.attributions:
                raise InputError(f"no domain {name!r}: the domains are {', '.join(map(repr, self.names))}")


def domains(
    model: MaskedModel,
    data: Mapping[str, Batch],
    *,
    alpha: float,
    method: Method = path_gradient,
    draws: int | None = None,
    held_out: int = 200,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Domains:
    """Attribute several kinds of data with the same masks, so that differences are differences of the data.

    Costs, logged before it starts: one fit and `held_out` forward rows for every example of every domain. A fit with
    `al.path_gradient` counts 3 x draws rows, one with `al.coar` draws. Everything that is asked of the result
    afterwards is arithmetic.

    Args:
        model: the masked model.
        data: name of a domain -> its examples; two domains or more, of any number of examples and any length. One
            example has no interval.
        alpha: ablated fraction of the fits and of the held-out masks.
        method: what attributes, called as ``method(model, data, alpha=, draws=, seed=)``. One that stops early, as
            `al.attribute` does, may do so after other masks in each domain: ``functools.partial(al.attribute,
            tolerance=None)`` does not.
        draws: of each fit; by default 4 for each component with `al.coar`, 500 with any other method.
        held_out: masks on which attributions are tested, the same for every domain; 0 for no test.
        seed: of the fits, and of the held-out masks, which have a stream of their own.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if data is not two batches or more by name, one of them is empty, or alpha, draws or
            held_out do not fit.
    """
    check_data(model, data, fewest=2, examples=1)
    components, examples = len(model.registry), sum(len(batch) for batch in data.values())
    if not is_integer(held_out) or held_out < 0 or held_out in (1, 2):
        raise InputError(
            "held_out is the number of masks that attributions are tested on, at least 3, better hundreds, or 0 for no "
            f"test; got {held_out!r}"
        )
    check_masks([alpha], components, held_out or 3, seed)
    fitting = Fitting(method, draws_for(method, components, draws), seed, rows, show_bar)
    check_draws(fitting.draws, 1)
    cost = state_cost(
        model,
        "domains",
        {
            f"fits of {examples:,} examples": fitting.rows_of(components, examples, 1),
            f"{held_out:,} held-out masks": held_out * examples,
        },
    )
    found = {name: fitting(model, batch, alpha=alpha) for name, batch in data.items()}
    first = next(iter(found.values()))
    notes = _notes(found)
    for note in notes:
        log.warning("%s", note)
    provenance = {
        "study": "domains",
        "method": first.method,
        "alpha": float(alpha),
        "draws": fitting.own_draws(),
        "seed": seed,
        "held_out": held_out,
        "cost": cost,
        "notes": notes,
        **{key: first.provenance[key] for key in FROM_ATTRIBUTIONS if key in first.provenance},
        "data": {name: {"examples": len(batch), "fingerprint": batch.fingerprint()} for name, batch in data.items()},
    }
    for name, one in found.items():
        if not with_weights(one.weights.values).any():
            raise InputError(f"no example of domain {name!r} has a finite weight: look at model(model.mask(), data)")
    scores = tested_by_domain(model, data, found, fitting, alpha, held_out) if held_out else None
    return Domains(found, scores, provenance)


def _weights(found: Mapping[str, Attribution]) -> dict[str, np.ndarray]:
    """Weights of the examples that have some."""
    values = {name: one.weights.values for name, one in found.items()}
    return {name: one[has] if (has := with_weights(one)).any() else one for name, one in values.items()}


def _notes(found: Mapping[str, Attribution]) -> list[str]:
    """What a reader should know before trusting the study."""
    notes = [
        f"domain {name!r} has one example: it has no intervals, and no Welch t"
        for name, one in found.items()
        if one.weights.shape[0] == 1
    ]
    masks = [one.provenance.get("masks") for one in found.values()]
    if any(one != masks[0] for one in masks):
        notes.append(
            "the domains were not attributed with the same masks, so that differences are not of the data alone; give "
            "a method that does not stop early, such as method=functools.partial(al.attribute, tolerance=None)"
        )
    for name, one in found.items():
        lost = int((~with_weights(one.weights.values)).sum())
        if lost:
            notes.append(f"domain {name!r}: {lost:,} of {len(one.weights)} examples have no finite weight; left out")
    left_out = int((~usable(_weights(found))).sum())
    if left_out:
        notes.append(f"{left_out:,} components have a weight that is not finite and are left out of similarities")
    return notes
