"""A run in a directory: what a configuration asks for, done so that a run that was stopped can go on.

config.yaml             the configuration, paths absolute and defaults written out
stores/<method>/        outputs under masks, block by block (see counterfactuals/store.py), of methods with many passes
<method>.safetensors    the attribution, which is not computed again (see finished.py)
scores.safetensors      how well it predicts held-out ablations
report.html             all of it, to read
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ablationlens.ablations import Ablation, GaussianNoise, Mean, Resample, Scale, Zero
from ablationlens.adapters.base import Adapter
from ablationlens.adapters.dispatch import adapt
from ablationlens.attribution.coar import kept_outputs
from ablationlens.counterfactuals.store import write_atomically
from ablationlens.data import Batch
from ablationlens.errors import ConfigError, StoreError
from ablationlens.evaluate import Scores, evaluate
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import random_design
from ablationlens.outputs import KL, CrossEntropy, Logit, LogitDifference, Margin, Output
from ablationlens.report import report
from ablationlens.results import Attribution
from ablationlens.runs import config as configs
from ablationlens.runs import config_file, methods
from ablationlens.runs.config import RunConfig
from ablationlens.runs.finished import load_finished, marked
from ablationlens.runs.loading import Opened, open_model
from ablationlens.runs.method_configs import MethodConfig
from ablationlens.runs.texts import open_data

CONFIG = "config.yaml"
STORES = "stores"
SCORES = "scores.safetensors"
REPORT = "report.html"


@dataclass(frozen=True)
class Prepared:
    """What a configuration stands for, ready to run: the configuration with every alpha that it left open."""

    config: RunConfig
    model: MaskedModel
    data: Batch


@dataclass(frozen=True)
class Results:
    """What a run found."""

    attributions: Mapping[str, Attribution]
    scores: Scores


def prepare(config: RunConfig, opened: Opened | None = None, adapter: Adapter | None = None) -> Prepared:
    """Load the model and the data.

    Args:
        config: what to prepare.
        opened: the model, if it is loaded already.
        adapter: its adapter, if it is adapted already.

    Raises:
        ConfigError: if the model or the data cannot be read.
        InputError: if the model has no such components, or the data does not fit it.
    """
    opened = open_model(config.model) if opened is None else opened
    adapter = adapt(opened.model) if adapter is None else adapter
    asked = config.registry
    registry = adapter.registry(
        list(asked.kinds),
        layers=asked.layers,
        modules=asked.modules,
        size=asked.size,
        svd=asked.svd,
        allow_overlap=asked.allow_overlap,
    )
    data = open_data(config.data, opened)
    model = MaskedModel(adapter, registry, _ablation(config, data, opened), _output(config))
    whole = config.for_components(len(registry))
    _check(whole, model, data)
    return Prepared(whole, model, data)


def _check(config: RunConfig, model: MaskedModel, data: Batch) -> None:
    """Find now what would stop the run later: an output that does not fit the data, masks that cannot be drawn."""
    kept_outputs(model, data)
    components = len(model.registry)
    for method in config.method:
        methods.check(method, components, config.seed)
    for alpha in config.alphas:
        random_design("bernoulli", components, alpha, config.evaluate.draws, config.seed)


def execute(prepared: Prepared, folder: Path) -> Results:
    """Attribute and evaluate; the attributions and stores that `folder` holds already are not computed again.

    Raises:
        StoreError: if an attribution or a store belongs to another run, is damaged, or cannot be written.
        InputError: if a method does not fit the components.
    """
    config = prepared.config
    folder.mkdir(parents=True, exist_ok=True)
    attributions: dict[str, Attribution] = {}
    for method in config.method:
        attributions[method.name] = _attribute(prepared, method, folder)
    scores = evaluate(
        prepared.model,
        prepared.data,
        attributions,
        alphas=config.alphas,
        draws=config.evaluate.draws,
        seed=config.seed,
    )
    scores.save(folder / SCORES)
    kept = config_file.load(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if kept is None or kept.for_components(len(prepared.model.registry)) != config:
        write_atomically(folder / CONFIG, config.to_yaml().encode())
    return Results(attributions, scores)


def attribution_path(folder: Path, method: MethodConfig) -> Path:
    """Where the attribution of a method is kept."""
    return folder / f"{method.slug}.safetensors"


def _attribute(prepared: Prepared, method: MethodConfig, folder: Path) -> Attribution:
    """The attribution of one method: the one that is in the directory, or a new one, which is kept there."""
    model, data, seed = prepared.model, prepared.data, prepared.config.seed
    path, store = attribution_path(folder, method), folder / STORES / method.slug
    asked = method.asked(seed)
    found = load_finished(path, asked, model, data, refuse=not store.is_dir())
    if found is None:
        found = marked(methods.run_method(method, model, data, seed=seed, store=store), asked)
        found.save(path)
    return found


def _ablation(config: RunConfig, data: Batch, opened: Opened) -> Ablation:
    match config.ablation.choice:
        case _, configs.ScaleConfig(gamma=gamma):
            return Scale(gamma)
        case _, configs.MeanConfig(data=other, per_position=per_position):
            found = data if other is None else open_data(other, opened, "ablation.mean.data")
            return Mean(found, per_position)
        case _, configs.ResampleConfig(data=other):
            found = None if other is None else open_data(other, opened, "ablation.resample.data")
            return Resample(found, config.seed)
        case _, configs.NoiseConfig(sigma=sigma, relative=relative):
            return GaussianNoise(sigma, config.seed, relative)
        case _, configs.ZeroConfig(include_bias=include_bias):
            return Zero(include_bias)
        case name, _:
            raise ConfigError(f"ablation: no ablation '{name}'")


def _output(config: RunConfig) -> Output:
    match config.output.choice:
        case _, configs.MarginConfig(classes=classes):
            return Margin(classes)
        case "cross_entropy", _:
            return CrossEntropy()
        case _, configs.LogitConfig(token=token):
            return Logit(token)
        case _, configs.LogitDifferenceConfig(a=a, b=b):
            return LogitDifference(a, b)
        case _, configs.KLConfig(direction=direction):
            return KL(direction)
        case name, _:
            raise ConfigError(f"output: no output '{name}'")


# --- the directory ----------------------------------------------------------------------------------------------------


def begin(config: RunConfig, folder: Path, *, resume: bool, source: Path | None = None) -> None:
    """Claim a directory for a run, before anything is loaded.

    Args:
        config: what will run.
        folder: where.
        resume: whether a run that is there may go on.
        source: the file that the configuration was read from, which may lie in the directory.

    Raises:
        ConfigError: if the directory is taken.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file: give a directory")
    own = None if source is None else source.resolve()
    others = [path for path in folder.iterdir() if path.resolve() != own] if folder.is_dir() else []
    if others and not (folder / STORES).is_dir() and not (folder / CONFIG).is_file():
        raise ConfigError(f"--out {folder} is not empty and holds no run: choose another directory")
    if others and not resume:
        raise ConfigError(f"--out {folder} holds a run already: add --resume to go on with it, or choose another")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG).is_file():  # one that is there is replaced only when its run could go on: see `execute`
        write_atomically(folder / CONFIG, config.to_yaml().encode())


def read(folder: Path) -> tuple[RunConfig, Results]:
    """What a run has left in its directory.

    Raises:
        ConfigError: if the directory holds no run.
        StoreError: if the run is not finished, or a file is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} holds no run: it has no {CONFIG}")
    config = config_file.load(folder / CONFIG)
    if not (folder / SCORES).is_file():
        raise StoreError(f"the run in {folder} is not finished: it has no {SCORES}; go on with it first, with --resume")
    attributions = {method.name: Attribution.load(attribution_path(folder, method)) for method in config.method}
    return config, Results(attributions, Scores.load(folder / SCORES))


def write_report(path: Path, prepared: Prepared, results: Results) -> Path:
    """The page of one run."""
    return report(path, prepared.model, prepared.data, attributions=results.attributions, scores=results.scores)
