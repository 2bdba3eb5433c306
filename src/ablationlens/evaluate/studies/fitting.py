"""How studies attribute: any method that is called as `al.path_gradient` is, and what it costs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ablationlens.attribution import attribute, coar, leave_one_out, path_gradient
from ablationlens.attribution.costs import passes_of_paths
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate.held_out import evaluate
from ablationlens.evaluate.scores import Scores
from ablationlens.masked_model import MaskedModel
from ablationlens.results import Attribution

Method: TypeAlias = Callable[..., Attribution]
"""How a study attributes: ``method(model, data, alpha=, draws=, seed=, rows=, show_bar=)``, as `al.path_gradient` and
`al.coar` are called. Arguments that it does not have are left out; those that ``functools.partial`` has set stay."""


@dataclass(frozen=True)
class Fitting:
    """A method with the settings of a study.

    Attributes:
        method: what attributes.
        draws: of each fit.
        seed: of each fit.
        rows: rows of one pass.
        show_bar: a progress bar.
    """

    method: Method
    draws: int
    seed: int
    rows: int | None
    show_bar: bool | None

    def __post_init__(self) -> None:
        if not callable(self.method):
            raise InputError(
                f"method is a function such as al.path_gradient or al.coar; got {self.method!r}. With other settings: "
                "method=functools.partial(al.coar, solver='lasso')"
            )

    def __call__(self, model: MaskedModel, data: Batch, **settings: Any) -> Attribution:
        """Attribute `data`; `settings` go before those of the study."""
        wanted = {"draws": self.draws, "seed": self.seed, "rows": self.rows, "show_bar": self.show_bar, **settings}
        found = self.method(model, data, **{key: value for key, value in wanted.items() if self.takes(key)})
        if not isinstance(found, Attribution):
            raise InputError(f"the method returns an Attribution, as al.path_gradient does; got {type(found).__name__}")
        return found

    def takes(self, name: str) -> bool:
        """Whether the method has this argument, and its caller has not set it."""
        if name in _preset(self.method):
            return False
        try:
            parameters = inspect.signature(self.method).parameters
        except (TypeError, ValueError):  # some callables do not say what they take
            return True
        return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())

    def own_draws(self) -> int | None:
        """Draws of each fit: those that the caller has set, or the study's; None for a method that takes none."""
        preset = _preset(self.method)
        if "draws" in preset:
            return int(preset["draws"])
        return self.draws if self.takes("draws") else None

    def check_varies(self, name: str) -> None:
        """Refuse a method that has no such argument, for a study that varies it.

        Raises:
            InputError: if so.
        """
        if not self.takes(name):
            fixed = f"has {name}={_preset(self.method)[name]!r} set" if name in _preset(self.method) else "takes none"
            raise InputError(
                f"this study varies {name}, and the method {name_of(self.method)} {fixed}: give one that takes it, "
                "such as method=al.path_gradient or method=al.coar"
            )

    def passes(self, components: int, draws: int | None = None) -> int | None:
        """Forward passes of one fit, a gradient counted as 3; None for a method whose cost is not known here.

        Args:
            components: width of the masks.
            draws: of the fit, where they are not the study's.
        """
        preset, inner = _preset(self.method), getattr(self.method, "func", self.method)
        draws = int(preset.get("draws", self.draws if draws is None else draws))
        if inner is path_gradient:
            return passes_of_paths(draws)
        if inner is coar:
            return draws + 1
        if inner is leave_one_out:
            return components + 1
        if inner is attribute:
            return int(preset.get("budget", inspect.signature(attribute).parameters["budget"].default))
        return None

    def rows_of(self, components: int, examples: int, fits: int, draws: int | None = None) -> int | None:
        """Forward rows of so many fits; None if they are not known."""
        passes = self.passes(components, draws)
        return None if passes is None else passes * examples * fits


def name_of(method: Method) -> str:
    """What the method is called, for messages and records."""
    inner = getattr(method, "func", method)
    return str(getattr(inner, "__name__", type(inner).__name__))


def _preset(method: Method) -> dict[str, Any]:
    """Arguments that the caller has set."""
    return dict(method.keywords) if isinstance(method, functools.partial) else {}


def tested(
    model: MaskedModel,
    data: Batch,
    found: dict[str, Attribution],
    fitting: Fitting,
    alphas: Sequence[float],
    draws: int,
) -> Scores:
    """Held-out correlation of attributions, with the settings of a study."""
    return evaluate(
        model,
        data,
        found,
        alphas=alphas,
        draws=draws,
        seed=fitting.seed,
        rows=fitting.rows,
        show_bar=fitting.show_bar,
    )
