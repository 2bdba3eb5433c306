"""What a configuration can say of the methods: which, and with what options.

Each has a `name` for tables, figures and files, so that one method can be asked for several times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ablationlens.runs.strict import Alpha, Count, Number, OneOf, Strict, called

DEFAULT_ALPHA = 0.05
"""Share of components that is ablated where nothing else is said."""


class AttributeConfig(Strict):
    """The best method for a budget, spent in rounds: `al.attribute`.

    Attributes:
        alpha: share of components that is ablated; by default 5%, or the nearest that the components allow.
        budget: forward passes of the whole data; a gradient counts three.
        tolerance: expected loss of correlation at which it stops early; null spends the whole budget.
    """

    alpha: Alpha | None = None
    budget: Annotated[int, Field(ge=10)] = 1000
    tolerance: Annotated[Number, Field(gt=0, lt=1)] | None = 0.005
    name: str = "attribute"


class PathGradientConfig(Strict):
    """Path gradient: each draw is about three forward passes."""

    alpha: Alpha
    draws: Count
    rho: Annotated[Number, Field(gt=0, le=1)] | None = None
    name: str = "path gradient"


class CoarConfig(Strict):
    """COAR."""

    alpha: Alpha
    draws: Count
    design: Literal["bernoulli", "subset", "balanced"] = "bernoulli"
    solver: Literal["ridge", "least_squares", "lasso"] = "ridge"
    name: str = "COAR"


class LeaveOneOutConfig(Strict):
    """Leave-one-out."""

    name: str = "leave-one-out"


class GradientXParameterConfig(Strict):
    """The gradient in the mask with everything kept."""

    name: str = "gradient x parameter"


class IntegratedGradientsConfig(Strict):
    """The mean gradient as all gates open together, at `steps` points."""

    steps: Count = 32
    name: str = "integrated gradients"


class ShapleyConfig(Strict):
    """Shapley values of few components.

    Attributes:
        method: how the average over orders is taken: by sampled orders, by KernelSHAP, or over all masks.
        samples: orders, or masks of KernelSHAP; by default what `al.shapley` takes.
    """

    method: Literal["sampling", "kernel", "exact"] = "sampling"
    samples: Count | None = None
    name: str = "Shapley values"


class ConductanceConfig(Strict):
    """What flows through a component as the input grows, at `steps` points."""

    steps: Count = 32
    name: str = "conductance"


class InternalInfluenceConfig(Strict):
    """The mean gradient in a component's activation as the input grows, at `steps` points."""

    steps: Count = 32
    name: str = "internal influence"


def _only_in_python(call: str) -> str:
    return (
        "it compares every text with a corrupt one, which a configuration cannot name; in Python: "
        f"{call}. The ablation {{resample: {{data: ...}}}} puts activations of other texts in, for all methods here"
    )


class MethodConfig(OneOf):
    """How components are attributed."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "activation_patching": _only_in_python("al.activation_patching(model, clean, corrupt)"),
        "attribution_patching": _only_in_python("al.attribution_patching(model, clean, corrupt)"),
    }

    attribute: AttributeConfig | None = None
    path_gradient: PathGradientConfig | None = None
    coar: CoarConfig | None = None
    leave_one_out: LeaveOneOutConfig | None = None
    gradient_x_parameter: GradientXParameterConfig | None = None
    integrated_gradients: IntegratedGradientsConfig | None = None
    shapley: ShapleyConfig | None = None
    conductance: ConductanceConfig | None = None
    internal_influence: InternalInfluenceConfig | None = None

    @property
    def name(self) -> str:
        """As tables and figures call it."""
        return self.choice[1].name

    @property
    def slug(self) -> str:
        """As files call it."""
        return called(self.name)

    @property
    def fitted(self) -> bool:
        """Whether it estimates the effects under random ablations of one share of the components, its alpha."""
        return "alpha" in type(self.choice[1]).model_fields

    @property
    def alpha(self) -> float | None:
        """That share; None if it is left open, or the method has none."""
        return self.choice[1].alpha if self.fitted else None

    def with_alpha(self, alpha: float) -> MethodConfig:
        """The same with this share, where it was left open."""
        if not self.fitted or self.alpha is not None:
            return self
        name, options = self.choice
        return self.model_copy(update={name: options.model_copy(update={"alpha": alpha})})

    def asked(self, seed: int) -> dict[str, Any]:
        """Everything that decides the result on given components and data, JSON-able."""
        name, options = self.choice
        said = {"method": name, "options": options.model_dump(exclude={"name"})}
        return {**said, "seed": seed} if self.fitted or self.shapley is not None else said


def nearest_alpha(components: int) -> float:
    """5%, or the nearest share that ablates at least one of so few components, rounded."""
    return max(DEFAULT_ALPHA, math.ceil(0.5 / components * 1e6) / 1e6)
