"""What a configuration can say of the ablation: what stands in for an ablated part."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ablationlens.runs.data_config import DataConfig
from ablationlens.runs.strict import Number, OneOf, Strict


class ZeroConfig(Strict):
    """Zero ablation."""

    include_bias: bool = False


class ScaleConfig(Strict):
    """Ablated parts are scaled by gamma."""

    gamma: Annotated[Number, Field(ge=0, le=1)]


class MeanConfig(Strict):
    """The mean over `data`, by default the data of the run."""

    data: DataConfig | None = None
    per_position: bool = False


class ResampleConfig(Strict):
    """Activations of another example of `data`, by default the data of the run."""

    data: DataConfig | None = None


class NoiseConfig(Strict):
    """Gaussian noise."""

    sigma: Annotated[Number, Field(ge=0)]
    relative: bool = False


class AblationConfig(OneOf):
    """What stands in for an ablated part."""

    zero: ZeroConfig | None = None
    scale: ScaleConfig | None = None
    mean: MeanConfig | None = None
    resample: ResampleConfig | None = None
    noise: NoiseConfig | None = None
