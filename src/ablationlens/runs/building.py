"""Ablations and outputs as a configuration names them."""

from __future__ import annotations

from ablationlens.ablations import Ablation, GaussianNoise, Mean, Resample, Scale, Zero
from ablationlens.adapters.base import Adapter
from ablationlens.adapters.patterns import chosen_heads
from ablationlens.data import Batch
from ablationlens.errors import AblationLensError, ConfigError
from ablationlens.outputs import KL, CrossEntropy, Logit, LogitDifference, Margin, Output, PatternMass
from ablationlens.runs import ablation_configs as ablations
from ablationlens.runs import output_configs as outputs
from ablationlens.runs.ablation_configs import AblationConfig
from ablationlens.runs.loading import Opened
from ablationlens.runs.output_configs import OutputConfig, PatternMassConfig
from ablationlens.runs.texts import open_data


def ablation_of(config: AblationConfig, data: Batch, opened: Opened, seed: int, field: str = "ablation") -> Ablation:
    """The ablation that a configuration names.

    Args:
        config: which.
        data: of the run, where it has none of its own.
        opened: the model that reads its own data.
        seed: of the run.
        field: name of the configuration's field, for messages.

    Raises:
        ConfigError: if its data cannot be read.
    """
    match config.choice:
        case _, ablations.ScaleConfig(gamma=gamma):
            return Scale(gamma)
        case _, ablations.MeanConfig(data=other, per_position=per_position):
            found = data if other is None else open_data(other, opened, f"{field}.mean.data")
            return Mean(found, per_position)
        case _, ablations.ResampleConfig(data=other):
            found = None if other is None else open_data(other, opened, f"{field}.resample.data")
            return Resample(found, seed)
        case _, ablations.NoiseConfig(sigma=sigma, relative=relative):
            return GaussianNoise(sigma, seed, relative)
        case _, ablations.ZeroConfig(include_bias=include_bias):
            return Zero(include_bias)
        case name, _:
            raise ConfigError(f"{field}: no ablation '{name}'")


def output_of(config: OutputConfig, adapter: Adapter, field: str = "output") -> Output:
    """The output that a configuration names.

    Args:
        config: which.
        adapter: the model, which has to have the head of a pattern.
        field: name of the configuration's field, for messages.

    Raises:
        ConfigError: if the model has no such head.
    """
    match config.choice:
        case _, outputs.MarginConfig(classes=classes):
            return Margin(classes)
        case "cross_entropy", _:
            return CrossEntropy()
        case _, outputs.LogitConfig(token=token):
            return Logit(token)
        case _, outputs.LogitDifferenceConfig(a=a, b=b):
            return LogitDifference(a, b)
        case _, outputs.KLConfig(direction=direction):
            return KL(direction)
        case _, outputs.PatternMassConfig():
            return _pattern_mass(config.choice[1], adapter, f"{field}.pattern_mass")
        case name, _:
            raise ConfigError(f"{field}: no output '{name}'")


def _pattern_mass(config: PatternMassConfig, adapter: Adapter, field: str) -> PatternMass:
    try:
        (heads,) = chosen_heads(adapter, [config.layer], config.attention)
        found = PatternMass(config.layer, config.head, config.target, config.attention)
    except AblationLensError as error:
        raise ConfigError(f"{field}: {error}") from error
    if config.head >= heads.queries:
        raise ConfigError(f"{field}.head: layer {config.layer} has heads 0 to {heads.queries - 1}; got {config.head}")
    return found
