"""Train a decomposition: stochastic parameter decomposition, in one loop.

Bushnaq, Braun and Sharkey 2025 (arXiv 2506.20790), with what goodfire-ai/spd has added since: the remainder as a
component, subsets of modules, adversarial reconstruction.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablationlens.adapters.base import Adapter, check_adapter, layer_numbers
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer, is_number
from ablationlens.errors import InputError
from ablationlens.files import as_path
from ablationlens.layout import reads_encoder
from ablationlens.progress import announce, bar
from ablationlens.provenance import packages
from ablationlens.randomness import raw
from ablationlens.spd.adversary import ascend, starting
from ablationlens.spd.checkpoints import Progress, load_progress, save_progress
from ablationlens.spd.decomposition import Decomposition, Importances, Part, Where, check_data, name_of
from ablationlens.spd.divergence import Divergence, check_divergence, diverged
from ablationlens.spd.forward import GatedModel, Runs, Target
from ablationlens.spd.functions import importance_function
from ablationlens.spd.losses import STANDARD, Faithfulness, Loss, Minimality, Reconstruction
from ablationlens.spd.routing import routed
from ablationlens.spd.sources import Sources, gates_of, random_sources

ALIVE = 0.1
"""Importance above which a component counts as mattering, in L0 and in the number of live ones."""
LOGGED = 50
"""How many times in a training the history is written."""
WARMUP_RATE, WARMUP_DECAY = 0.01, 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training beside the model and the data.

    Attributes:
        components: of each module.
        losses: what is minimised.
        output: divergence of outputs, "kl" or "mse".
        steps: of the optimiser.
        importance: kind of the importance functions, and `hidden` the widths of their hidden layers.
        sigmoid: what makes importances of what they give.
        learning_rate: of Adam at the first step; it falls to 0 along half a cosine.
        warmup: steps on faithfulness alone, before.
        rows: examples of a step, where the data is one batch.
        seed: of weights, sources, subsets and examples.
    """

    components: Mapping[Where, int]
    losses: tuple[Loss, ...] = STANDARD
    output: Divergence = "kl"
    steps: int = 5000
    importance: str = "vector_mlp"
    hidden: tuple[int, ...] = (16,)
    sigmoid: str = "leaky_hard"
    learning_rate: float = 1e-3
    warmup: int = 200
    rows: int = 32
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **{name: value for name, value in vars(self).items() if name not in ("components", "losses", "hidden")},
            "components": [[*where, count] for where, count in self.components.items()],
            "hidden": list(self.hidden),
            "losses": [{"loss": type(loss).__name__, **_plain(vars(loss))} for loss in self.losses],
        }


def train(
    adapter: Adapter,
    modules: Sequence[str] | str | None,
    n_components: int | Mapping[str, int],
    data: Batch | Callable[[int], Batch],
    *,
    layers: Iterable[int] | int | None = None,
    steps: int = 5000,
    losses: Sequence[Loss] = STANDARD,
    output: Divergence = "kl",
    importance: str = "vector_mlp",
    hidden: Sequence[int] = (16,),
    sigmoid: str = "leaky_hard",
    learning_rate: float = 1e-3,
    warmup: int = 200,
    rows: int = 32,
    seed: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    every: int = 500,
    show_bar: bool | None = None,
) -> Decomposition:
    """Find rank-one components of weight matrices that sum to them, and of which few matter for any one input.

    Each step runs the model once as it is, for the modules' inputs and the outputs to be given back, and then once for
    each pass of each reconstruction loss (one, or one a module for "layerwise"; an adversary with k steps runs k + 1
    more). A pass under gates costs about twice a plain one, and its gradient twice that again.

    Args:
        adapter: the model, which is not changed.
        modules: logical modules, such as ``["q", "k", "v", "o"]``; None: every linear module that is not fused. Fused
            matrices are named as wholes, ``["qkv"]``, and identities that are put before a module by it,
            ``["q", "q.pre_identity"]``. The token embedding is ``["embed"]``; it counts to layer 0, and needs
            ``importance="mlp"``.
        n_components: how many components a module gets, the same for all, or by logical name.
        data: the examples, of which every step draws `rows`; or a function from the step to its examples, which should
            depend on the step alone if the training is to be resumed.
        layers: layers to take; all by default.
        steps: of the optimiser (Adam).
        losses: what is minimised; see `losses`.
        output: divergence of outputs: "kl" of predictions, or "mse" of numbers.
        importance: kind of importance function: "mlp", "vector_mlp" or "shared_mlp".
        hidden: widths of its hidden layers.
        sigmoid: what makes importances of what it gives.
        learning_rate: of the first step; it falls to 0 along half a cosine.
        warmup: steps on faithfulness alone, before.
        rows: examples of a step, where `data` is one batch.
        seed: of weights, sources, subsets and examples.
        checkpoint: a file that the state is written to every so many steps, and read from if it is there.
        every: how many steps.
        show_bar: a progress bar with the losses; by default where there is a screen.

    Returns:
        The decomposition, whose `history` has the losses and the mean number of components that matter (importance
        above 0.1) in each module.

    Raises:
        InputError: if the model has no such modules, a setting does not fit, or the loss is no longer finite.
        StoreError: if the checkpoint is of another training, or damaged.
    """
    check_adapter(adapter)
    check_divergence(output)
    components = _components(adapter, modules, n_components, layers)
    given: Any = (losses,) if isinstance(losses, Loss) else losses
    if not isinstance(hidden, Sequence):
        raise InputError(f"hidden and losses are several, hidden=(16,); got hidden={hidden!r}")
    if not isinstance(given, Sequence):
        raise InputError(f"hidden and losses are several, losses=[al.spd.Reconstruction()]; got losses={losses!r}")
    recipe = Recipe(
        components, tuple(given), output, steps, importance, tuple(hidden), sigmoid, learning_rate, warmup, rows, seed
    )
    _check(recipe)
    _check_embedding(adapter, recipe)
    path = None if checkpoint is None else as_path(checkpoint, "training.safetensors")
    _check_call(adapter, data, path, every)
    with torch.inference_mode(False), torch.enable_grad():  # parameters that are made in inference mode cannot learn
        decomposition = begin(adapter, recipe)
        training = Training(adapter, decomposition, recipe, data)
        training.run(path, every, show_bar)
    decomposition.zero_grad(set_to_none=True)
    decomposition.eval().requires_grad_(False)
    decomposition.provenance = {
        "method": "spd",
        "recipe": recipe.describe(),
        "model": adapter.describe(),
        "packages": packages(),
        "seconds": round(training.seconds, 1),
        "history": training.history,
    }
    return decomposition.made_of(adapter)


def begin(adapter: Adapter, recipe: Recipe) -> Decomposition:
    """A decomposition with random components and importance functions."""
    parts: dict[Where, Part] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for where, count in recipe.components.items():
            rows, columns = adapter.weight(*where).shape
            V, U = torch.randn(columns, count) / math.sqrt(columns), torch.randn(count, rows) / math.sqrt(count)
            parts[where] = Part(V, U, importance_function(recipe.importance, count, columns, recipe.hidden))
    return Decomposition(parts, sigmoid=recipe.sigmoid).to(adapter.device)


@dataclass
class Training:
    """A training that is under way.

    Attributes:
        adapter: the model.
        decomposition: its components, which learn.
        recipe: how.
        data: see `train`.
        step: how many steps are done.
        history: losses and L0 at some steps.
        seconds: spent so far.
    """

    adapter: Adapter
    decomposition: Decomposition
    recipe: Recipe
    data: Batch | Callable[[int], Batch]
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.weights = self.decomposition.weights(self.adapter)
        self.optimiser = torch.optim.AdamW(
            self.decomposition.parameters(), lr=self.recipe.learning_rate, weight_decay=0.0
        )

    def run(self, checkpoint: Path | None, every: int, show_bar: bool | None) -> None:
        """Train to the end, from where a checkpoint is."""
        if not self._resume(checkpoint):
            self._warm_up()
        steps = self.recipe.steps
        announce(f"SPD: {steps - self.step:,} steps on {self.decomposition!r}")
        started = time.perf_counter() - self.seconds
        with GatedModel(self.adapter, self.decomposition).session() as runs:
            progress = bar(
                range(self.step, steps), total=steps - self.step, unit="step", label="SPD", show_bar=show_bar
            )
            for step in progress:
                noted = step % max(1, steps // LOGGED) == 0 or step + 1 == steps
                terms = self._advance(runs, step, noted=noted)
                self.step = step + 1
                if noted:
                    self.history.append({"step": self.step, **terms})
                    progress.set_postfix({name: f"{value:.3g}" for name, value in terms.items() if "/" not in name})
                self.seconds = time.perf_counter() - started
                if checkpoint is not None and (self.step % every == 0 or self.step == steps):
                    save_progress(checkpoint, self._progress())

    def _advance(self, runs: Runs, step: int, *, noted: bool) -> dict[str, float]:
        """One step; its losses and L0, if they are to be noted."""
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        generator = torch.Generator().manual_seed(int(raw(recipe.seed, "spd:train", step, 1)[0]))
        batch = self._batch(step, generator)
        target = runs.target(batch)
        importances = self.decomposition.importances_of(target.inputs)
        lower = {where: one.lower for where, one in importances.items()}
        real = {where: _real(one, batch, where) for where, one in importances.items()}
        terms: dict[str, Tensor] = {}
        for loss in recipe.losses:
            match loss:
                case Faithfulness():
                    name, value = "faithfulness", loss(self.decomposition, self.weights)
                case Minimality():
                    name, value = "minimality", loss(real, step / recipe.steps)
                case Reconstruction():
                    name, value = loss.name, self._reconstruction(loss, runs, batch, target, lower, generator)
            terms[name] = terms.get(name, 0.0) + loss.coefficient * value
        total = torch.stack(list(terms.values())).sum()
        if not math.isfinite(float(total.detach())):
            values = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in terms.items())
            raise InputError(
                f"the loss is not finite at step {step + 1} ({values}): give a lower learning_rate than "
                f"{recipe.learning_rate:.3g}, or look for inputs and weights that are not finite"
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        self.optimiser.step()
        if not noted:
            return {}
        counts = {
            f"L0/{where[0]}.{where[1]}": (one.lower > ALIVE).float().sum(-1).mean() for where, one in real.items()
        }
        return {name: float(value.detach()) for name, value in {"loss": total, **terms, **counts}.items()}

    def _reconstruction(
        self,
        loss: Reconstruction,
        runs: Runs,
        batch: Batch,
        target: Target,
        lower: Mapping[Where, Tensor],
        generator: torch.Generator,
    ) -> Tensor:
        """Divergence under the sources of a loss, a mean over its passes."""
        of_routes, of_sources = torch.randint(2**62, (2,), generator=generator).tolist()

        def diverging(sources: Sources, importances: Mapping[Where, Tensor]) -> Tensor:
            """[example]; the same subsets at every step of an adversary."""
            chosen = torch.Generator().manual_seed(of_routes)
            gates = gates_of(importances, sources, remainder=loss.remainder)
            passes = [
                diverged(runs.gated(batch, one), target.logits, batch, self.recipe.output)
                for one in routed(gates, loss.routing, chosen)
            ]
            return torch.stack(passes).mean(0)

        generator = torch.Generator().manual_seed(of_sources)
        if loss.adversary is None:
            return diverging(random_sources(lower, loss.sampling, generator), lower).mean()
        fixed = {where: one.detach() for where, one in lower.items()}
        begun = starting(fixed, loss.start, loss.adversary.scope, generator)
        found = ascend(lambda sources: diverging(sources, fixed), begun, loss.adversary)
        return diverging(found.sources, lower).mean()

    def _batch(self, step: int, generator: torch.Generator) -> Batch:
        if not isinstance(self.data, Batch):
            batch = self.data(step)
            if not isinstance(batch, Batch):
                raise InputError(f"data gives a Batch for each step, al.batch(...); got {type(batch).__name__}")
            check_data(self.adapter, batch)
            return batch.to(self.adapter.device)
        index = torch.randint(len(self.data), (self.recipe.rows,), generator=generator)
        return self.data.take(index).to(self.adapter.device)

    def _warm_up(self) -> None:
        """Faithfulness alone, which components have to begin with."""
        factors = [factor for _, part in self.decomposition.items() for factor in (part.V, part.U)]
        optimiser = torch.optim.AdamW(factors, lr=WARMUP_RATE, weight_decay=WARMUP_DECAY)
        faithfulness = Faithfulness()
        for _ in range(self.recipe.warmup):
            optimiser.zero_grad(set_to_none=True)
            faithfulness(self.decomposition, self.weights).backward()
            optimiser.step()
        self.decomposition.zero_grad(set_to_none=True)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        data = self.data.fingerprint() if isinstance(self.data, Batch) else "a function"
        return {"recipe": self.recipe.describe(), "model": self.adapter.describe()["fingerprint"], "data": data}

    def _progress(self) -> Progress:
        return Progress(self.step, self.seconds, self.history, self.decomposition, self.optimiser, self._identity())

    def _resume(self, checkpoint: Path | None) -> bool:
        """Go on from a checkpoint, if there is one."""
        if checkpoint is None or not checkpoint.is_file():
            return False
        self.step, self.seconds, self.history = load_progress(checkpoint, self._progress())
        return True


def _components(
    adapter: Adapter, modules: Sequence[str] | str | None, n_components: int | Mapping[str, int], layers: Any
) -> dict[Where, int]:
    """The modules to decompose, and how many components each gets."""
    chosen = None if layers is None else layer_numbers(layers)
    found = adapter.layout.decomposable(chosen, modules)
    return {(module.layer, module.name): _count(adapter, module.name, n_components) for module in found}


def _count(adapter: Adapter, name: str, n_components: int | Mapping[str, int]) -> int:
    count: Any = n_components
    if isinstance(n_components, Mapping):
        by_name = {(adapter.layout.select_names(key) or (key,))[0]: value for key, value in n_components.items()}
        count = by_name.get(name)
    if not is_integer(count) or count < 1:
        raise InputError(f"n_components of '{name}' is a whole number from 1; got {count!r}")
    return int(count)


def _check(recipe: Recipe) -> None:
    if not recipe.losses or not all(isinstance(loss, Loss) for loss in recipe.losses):
        raise InputError(f"losses are Faithfulness(), Minimality() and Reconstruction(); got {recipe.losses!r}")
    if not any(isinstance(loss, Reconstruction) for loss in recipe.losses):
        raise InputError("nothing ties importances to what the model does: add al.spd.Reconstruction() to the losses")
    if not is_integer(recipe.seed) or not 0 <= recipe.seed < 2**63:
        raise InputError(f"seed is a whole number from 0; got {recipe.seed!r}")
    for name in ("steps", "rows"):
        value = getattr(recipe, name)
        if not is_integer(value) or value < 1:
            raise InputError(f"{name} is a whole number from 1; got {value!r}")
    if not is_integer(recipe.warmup) or recipe.warmup < 0:
        raise InputError(f"warmup is a number of steps from 0; got {recipe.warmup!r}")
    if not is_number(recipe.learning_rate) or not 0 < recipe.learning_rate < float("inf"):
        raise InputError(f"learning_rate is above 0; got {recipe.learning_rate!r}")


def _check_embedding(adapter: Adapter, recipe: Recipe) -> None:
    """Importances of an embedding come from codes: it has no features that a function could read."""
    for where in recipe.components:
        if adapter.layout.module(*where).operation == "embedding" and recipe.importance != "mlp":
            raise InputError(
                f'{name_of(where)} is an embedding, whose importances come from its codes: importance="mlp"; got '
                f"{recipe.importance!r}"
            )


def _check_call(adapter: Adapter, data: Any, checkpoint: Path | None, every: Any) -> None:
    """What does not enter the recipe."""
    if not isinstance(data, Batch) and not callable(data):
        raise InputError(
            f"data is a Batch, al.batch(texts, tokenizer=...), or a function that gives one for each step; got "
            f"{type(data).__name__}"
        )
    if isinstance(data, Batch):
        check_data(adapter, data)
    if not is_integer(every) or every < 1:
        raise InputError(f"every is a number of steps from 1; got {every!r}")
    if checkpoint is not None and checkpoint.is_dir():
        raise InputError(f"checkpoint is a file, and {checkpoint} is a folder: give {checkpoint / 'spd.safetensors'}")


def _real(importances: Importances, batch: Batch, where: Where) -> Importances:
    """Importances without those at padding, which stands for nothing."""
    attended = batch.encoder_attended if reads_encoder(where[1]) else batch.attended
    if attended is None or importances.lower.shape[:-1] != attended.shape or bool(attended.all()):
        return importances
    return Importances(importances.lower[attended], importances.upper[attended])


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if not hasattr(value, "__dict__") else dict(vars(value)) for name, value in settings.items()}
