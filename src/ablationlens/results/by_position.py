"""AttributionByPosition: one weight for each example, position and component."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from ablationlens.errors import InputError, StoreError
from ablationlens.registry import Registry
from ablationlens.results.arrays import labelled, labelled_bias, numbers, over_examples, strongest_first
from ablationlens.results.by_component import Attribution, attribution
from ablationlens.results.saving import opened, write


@dataclass(frozen=True, eq=False)
class AttributionByPosition:
    """How much each component matters at each position of each example, in the units of the output.

    A weight is the effect of *keeping* a component at one position. A prediction is the bias plus the weights of all
    that is kept. Figures, `al.evaluate` and reports are of components: give them ``total()`` or ``at(position)``.

    Attributes:
        method: name of the method, for tables and figures.
        weights: ``[example, position, component]``, with the coordinates of an `Attribution`. Positions are those of
            the inputs, from 0, padding included.
        bias: ``[example]``: what is predicted when everything is ablated at every position.
        registry: the components, in the order of the weights.
        provenance: how it was made: JSON-able.
        errors: standard errors of the weights, in their shape, for methods that know them.
    """

    method: str
    weights: xr.DataArray
    bias: xr.DataArray
    registry: Registry
    provenance: dict[str, Any] = field(default_factory=dict)
    errors: xr.DataArray | None = None

    def __repr__(self) -> str:
        examples, positions, components = self.weights.shape
        shape = f"{examples:,} examples x {positions:,} positions x {components:,} components"
        return f"AttributionByPosition({self.method}: {shape})"

    @property
    def components(self) -> tuple[str, ...]:
        return self.registry.names

    @property
    def positions(self) -> int:
        """Positions of an input, padding included."""
        return self.weights.sizes["position"]

    def predict(self, masks: Any) -> Float[np.ndarray, "draw example"]:
        """Predicted outputs: the bias plus the weights of what is kept.

        A weight that could not be measured (its output was not finite) counts as 0.

        Args:
            masks: [draw, position, component]; or [draw, component], or one mask [component], which act on every
                position alike. Arrays or tensors.

        Raises:
            InputError: if the masks have another shape.
        """
        width = len(self.registry)
        shape = f"[draw, {self.positions}, {width}], or [draw, {width}] for all positions alike"
        array = np.atleast_2d(numbers(masks, shape))
        if (
            array.ndim not in (2, 3)
            or (array.ndim == 3 and array.shape[1] != self.positions)
            or array.shape[-1] != width
        ):
            raise InputError(f"masks have shape {shape}; got {list(array.shape)}")
        weights = np.nan_to_num(self.weights.values)
        if array.ndim == 2:
            return array @ weights.sum(1).T + self.bias.values[None, :]
        return array.reshape(len(array), -1) @ weights.reshape(len(weights), -1).T + self.bias.values[None, :]

    def at(self, position: SupportsIndex) -> Attribution:
        """The weights at one position; its predictions are those for components that are kept everywhere else.

        Args:
            position: of the inputs, from 0, padding included.

        Raises:
            InputError: if there is no such position.
        """
        try:
            index = operator.index(position)
        except TypeError as error:
            raise InputError(f"a position is an integer from 0 to {self.positions - 1}; got {position!r}") from error
        if not 0 <= index < self.positions:
            raise InputError(f"positions go from 0 to {self.positions - 1}, padding included; got {index}")
        elsewhere = np.delete(np.nan_to_num(self.weights.values), index, axis=1).sum((1, 2))
        return self._of_components(
            self.weights.values[:, index],
            self.bias.values + elsewhere,
            None if self.errors is None else self.errors.values[:, index],
            {"position": index},
        )

    def total(self) -> Attribution:
        """The sum over positions: what the weights predict for components that are kept or ablated everywhere at once.

        A position without a finite weight counts as 0. The errors are sums too, the largest that they can be, because
        weights of one run are not independent of each other.
        """
        weights = np.nansum(self.weights.values, axis=1)
        weights[np.isnan(self.weights.values).all(axis=1)] = np.nan
        errors = None if self.errors is None else np.nansum(self.errors.values, axis=1)
        return self._of_components(weights, self.bias.values.copy(), errors, {"position": "all, summed"})

    def _of_components(
        self,
        weights: Float[np.ndarray, "example component"],
        bias: Float[np.ndarray, " example"],
        errors: Float[np.ndarray, "example component"] | None,
        note: dict[str, Any],
    ) -> Attribution:
        examples = [str(name) for name in self.weights["example"].values]
        return attribution(
            self.method,
            weights,
            bias,
            self.registry,
            examples,
            provenance={**self.provenance, **note},
            errors=errors,
        )

    def table(self) -> pd.DataFrame:
        """Cells from the largest mean effect to the smallest: component, position, layer, module, kind, weight, spread.

        The weight is the mean over examples, the spread the standard deviation over examples. Methods that know their
        standard errors add a column: the error of the mean.
        """
        frame = self.registry.frame().drop(columns="index")
        cells = pd.concat([frame] * self.positions, ignore_index=True)
        cells.insert(1, "position", np.repeat(np.arange(self.positions), len(frame)))
        errors = None if self.errors is None else self.errors.values
        return strongest_first(cells.assign(**over_examples(self.weights.values, errors)))

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file; nothing in it is ever unpickled."""
        return write(path, self.method, self.weights, self.bias, self.registry, self.provenance, errors=self.errors)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> AttributionByPosition:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is not one of ours or damaged.
        """
        with opened(path) as saved:
            if saved.weights.ndim == 2:
                raise StoreError(f"{path} holds weights of components: al.Attribution.load({str(path)!r})")
            return attribution_by_position(
                saved.method,
                saved.weights,
                saved.bias,
                saved.registry,
                saved.examples,
                provenance=saved.provenance,
                errors=saved.errors,
            )


def attribution_by_position(
    method: str,
    weights: Float[np.ndarray, "example position component"],
    bias: Float[np.ndarray, " example"],
    registry: Registry,
    examples: Sequence[str],
    *,
    provenance: dict[str, Any],
    errors: Float[np.ndarray, "example position component"] | None = None,
) -> AttributionByPosition:
    """Label arrays with the registry's coordinates.

    Raises:
        InputError: if shapes and registry do not fit.
    """
    fits = weights.ndim == 3 and (weights.shape[0], weights.shape[2]) == (len(examples), len(registry))
    if not fits or bias.shape != (len(examples),):
        raise InputError(
            f"weights have shape [{len(examples)}, position, {len(registry)}] and bias [{len(examples)}]; "
            f"got {list(weights.shape)} and {list(bias.shape)}"
        )
    named = labelled(weights, registry, examples, ("example", "position", "component"))
    return AttributionByPosition(
        method,
        named,
        labelled_bias(bias, examples),
        registry,
        provenance,
        None if errors is None else named.copy(data=errors).rename("error"),
    )


def of_components(value: Any, what: str = "this") -> Attribution:
    """The attribution as it is; for what draws, compares or adds up weights of components.

    Args:
        value: what the user gave.
        what: the argument, for the message.

    Raises:
        InputError: if it is of positions, or no attribution.
    """
    if isinstance(value, AttributionByPosition):
        raise InputError(
            f"{what} takes weights of components, and these are by position: give it attribution.total(), or "
            "attribution.at(position)"
        )
    if not isinstance(value, Attribution):
        raise InputError(f"{what} takes an attribution, al.coar(model, data, ...); got {type(value).__name__}")
    return value
