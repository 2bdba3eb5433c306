"""The ablation experiment: heads, components and slices of them ablated in every mode by the same sources."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, SupportsIndex

import numpy as np

from ablationlens.adapters.base import Adapter
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.errors import InputError
from ablationlens.progress import announce, bar, log
from ablationlens.provenance import packages
from ablationlens.spd.decomposition import Decomposition, name_of
from ablationlens.spd.modes import Deterministic, Mode, Stochastic
from ablationlens.spd.pgd import PGD
from ablationlens.spd_experiment.asked import Ablate, Asked
from ablationlens.spd_experiment.bench import Bench, Patterns
from ablationlens.spd_experiment.effects import Effects
from ablationlens.spd_experiment.result import EVERYTHING, MEANS, AblationExperiment, labelled, patterns_labelled
from ablationlens.spd_experiment.whole import baseline_of

N_SAMPLES = 8
"""Samples of the stochastic mode that is there by default."""


def ablation_experiment(
    adapter: Adapter,
    decomposition: Decomposition,
    data: Batch,
    ablate: Mapping[str, Ablate],
    *,
    free: Mapping[str, Ablate] | None = None,
    positions: SupportsIndex | Iterable[SupportsIndex] | None = None,
    modes: Mapping[str, Mode] | Sequence[Mode] | None = None,
    patterns: Patterns | None = "first",
    layers: Sequence[int] | SupportsIndex | None = None,
    gaps: Literal["modules", "whole"] = "modules",
    reoptimise: bool = False,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> AblationExperiment:
    """What ablating heads and rank-one components does, in a model that runs on masked components, in several modes.

    In every mode the model before and after an ablation has the same sources: those of the mode's own seed, or the
    adversarial ones that were found before anything was ablated. So ablating nothing, ``{"nothing": None}``, changes
    exactly nothing. Example::

        result = al.spd.ablation_experiment(
            adapter,
            decomposition,
            data,
            {
                "previous-token head": "L0.head 3",
                "one component": "L1.attn.q rank_one 5",
                "in one head": al.spd.Restricted("L1.attn.q rank_one 5", head=2),
            },
        )
        result.table()

    What it costs, in forward passes of every example: for each sample of each mode one for each ablation, one or two
    for the baseline, as many again for patterns and, where a mode has several samples, for `kl_of_means`, and one for
    each module of the gap. PGD costs what `al.spd.PGD` says. Memory holds predictions of the target and of one
    baseline (real positions x classes), the gates of all samples of a mode, the patterns and the result.

    Args:
        adapter: the model.
        decomposition: of its modules.
        data: the examples.
        ablate: by name what is ablated: a head, a component, a `Restricted` one, several of one kind, or None for
            nothing. Its gate is 0 in every mode; heads are silenced before ``attn.o``.
        free: by name which components are freed: their importance is 0, and the mode decides the gate. In PGD the
            ascent goes on from the baseline's gates with the sources of what is freed, and all others stay, so what it
            finds is at least as bad.
        positions: where that is done; negative ones count from each example's last token; all by default.
        modes: by name or in a list; by default Deterministic, Stochastic with 8 samples, and PGD.
        patterns: "first", attention patterns of each mode's first sample; "mean", means over its samples; None for
            none, as in models without attention.
        layers: whose patterns are kept; all by default.
        gaps: "modules", the gap from the target also with the components of each module alone masked; or "whole".
        reoptimise: in PGD modes, let the ascent go on after each ablation of whole components, from the baseline's
            sources. It costs as much again for each.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Effects beside the gap of the baseline, with standard errors over samples.

    Raises:
        InputError: if names, modes or data do not fit; the message says what to type.
        UnknownNameError: for a head or component that there is not.
    """
    _check(adapter, decomposition, patterns, gaps, reoptimise)
    begun = time.perf_counter()
    asked = Asked(adapter, decomposition, ablate, free)
    named = _modes(decomposition, modes)
    bench = Bench(adapter, decomposition, data, asked, _integers(positions), rows, patterns, layers, gaps)
    if any(arm.operation == "free" for arm in asked.arms):
        _check_free(named)
    announce(bench.cost(named))
    found: list[Effects] = []
    steps = [(name, mode, sample) for name, mode in named.items() for sample in range(mode.samples)]
    with quietly():
        for name, mode, sample in bar(
            steps, total=len(steps), unit="sample", label="ablation experiment", show_bar=show_bar
        ):
            if sample == 0:
                found.append(Effects(bench, name, mode, reoptimise=reoptimise))
            found[-1].measure(sample)
            if sample == mode.samples - 1:
                found[-1].finish()
    provenance = {
        "experiment": "SPD ablation",
        "model": adapter.describe(),
        "decomposition": {
            "fingerprint": decomposition.fingerprint,
            "sigmoid": decomposition.sigmoid,
            "functions": {
                name_of(where): None if part.function is None else part.function.kind
                for where, part in decomposition.items()
            },
        },
        "modes": {one.name: {**one.mode.describe(), "baseline": baseline_of(one.mode)} for one in found},
        **{
            operation: {arm.name: list(arm.what) for arm in asked.arms if arm.operation == operation}
            for operation in ("ablate", "free")
        },
        "positions": "all" if bench.positions is None else list(bench.positions),
        "reoptimised": {one.name: list(one.reoptimised) for one in found if one.reoptimised},
        "patterns": patterns,
        "layers": layers if layers is None else [int(one) for one in np.atleast_1d(np.asarray(layers))],
        "gaps": gaps,
        "data": {
            "examples": len(data),
            "fingerprint": data.fingerprint(),
            "positions": int(bench.target.places.real.sum()),
        },
        "packing": {"examples": bench.rows},
        "packages": packages(),
        "seconds": round(time.perf_counter() - begun, 2),
    }
    return _result(bench, found, provenance)


def _result(bench: Bench, found: Sequence[Effects], provenance: dict[str, Any]) -> AblationExperiment:
    """All modes as one result."""
    most = max(one.mode.samples for one in found)

    def padded(values: np.ndarray) -> np.ndarray:
        wide = np.full((*values.shape[:2], most, values.shape[3]), np.nan)
        wide[:, :, : values.shape[2]] = values
        return wide

    values = {name: np.stack([one.values[at] for one in found]).astype("f4") for at, name in enumerate(MEASURES)}
    values[MEANS] = np.stack([one.means for one in found])
    samples = {name: np.stack([padded(one.samples)[at] for one in found]) for at, name in enumerate(MEASURES)}
    gaps = {name: np.stack([padded(one.gaps)[at] for one in found]) for at, name in enumerate(MEASURES)}
    modes = [(one.name, baseline_of(one.mode), one.mode.samples) for one in found]
    arms = [(arm.name, arm.operation) for arm in bench.arms]
    modules = [EVERYTHING, *(name_of(where) for where in bench.modules)]
    examples = list(bench.data.names())
    patterns = None
    shown = [one.patterns for one in found if one.patterns is not None]
    if shown:
        patterns = patterns_labelled(
            np.stack([one.values for one in shown]),
            [one.name for one in found],
            [arm.name for arm in bench.arms],
            examples,
            shown[0]["layer"].values.tolist(),
            shown[0]["query_token"].values,
            shown[0]["key_token"].values,
        )
    traces = {name: trace for one in found for name, trace in one.traces.items()}
    sets = labelled(values, samples, gaps, modes, arms, modules, examples)
    return AblationExperiment(*sets, patterns, traces, provenance)


# -- arguments ---------------------------------------------------------------------------------------------------------


def _modes(decomposition: Decomposition, modes: Any) -> dict[str, Mode]:
    """The modes by name.

    Raises:
        InputError: if there are none, or they are of another decomposition.
    """
    if modes is None:
        modes = [Deterministic(decomposition), Stochastic(decomposition, N_SAMPLES), PGD(decomposition)]
    if isinstance(modes, str | type) or not isinstance(modes, Mapping | Mode | Iterable):
        raise InputError(f"modes are instances, [al.spd.Stochastic(decomposition, 8)]; got {modes!r}")
    if not isinstance(modes, Mapping):
        listed = [modes] if isinstance(modes, Mode) else list(modes)
        names = [one.__name__ if isinstance(one, type) else _called(one) for one in listed]
        if len(set(names)) < len(names):
            raise InputError(f"two modes are called {max(names, key=names.count)}: name them, modes={{'name': mode}}")
        modes = dict(zip(names, listed, strict=True))
    if not modes:
        raise InputError("there are no modes: leave modes out, or give [al.spd.Deterministic(decomposition)]")
    for name, mode in modes.items():
        if not isinstance(mode, Mode):
            raise InputError(f"mode '{name}' is an instance such as al.spd.Stochastic(decomposition, 8); got {mode!r}")
        if mode.decomposition is not decomposition and mode.decomposition.fingerprint != decomposition.fingerprint:
            raise InputError(f"mode '{name}' is of another decomposition than the experiment")
        if isinstance(mode, PGD) and mode.again is not None:
            raise InputError(
                f"mode '{name}' has reoptimise=True, which is the experiment's own: "
                "al.spd.ablation_experiment(..., reoptimise=True), with PGD(decomposition) as the mode"
            )
    return {str(name): mode for name, mode in modes.items()}


def _called(mode: Any) -> str:
    name = type(mode).__name__
    return name if name.isupper() else name.lower()


def _check_free(modes: Mapping[str, Mode]) -> None:
    """Refuse to free where an ascent cannot go on from the baseline's gates."""
    for name, mode in modes.items():
        if isinstance(mode, PGD) and mode.ascent.scope == "shared":
            raise InputError(
                f"mode '{name}' shares its sources between positions, and a freed component begins at gates that "
                "differ between them: PGD(decomposition, scope='example')"
            )


def _check(adapter: Any, decomposition: Any, patterns: Any, gaps: Any, reoptimise: Any) -> None:
    if not isinstance(adapter, Adapter):
        raise InputError(f"the model is an adapter, al.adapt(model); got {type(adapter).__name__}")
    if not isinstance(decomposition, Decomposition):
        raise InputError(f"the decomposition is one, al.spd.load(path); got {type(decomposition).__name__}")
    if patterns not in ("first", "mean", None):
        raise InputError(f"patterns are 'first', 'mean' or None; got {patterns!r}")
    if gaps not in ("modules", "whole"):
        raise InputError(f"gaps are of 'modules' or of the 'whole'; got {gaps!r}")
    if not isinstance(reoptimise, bool):
        raise InputError(f"reoptimise is True or False; got {reoptimise!r}")


def _integers(positions: Any) -> tuple[int, ...] | None:
    if positions is None:
        return None
    listed = [positions] if getattr(positions, "ndim", 1) == 0 or not isinstance(positions, Iterable) else [*positions]
    if not listed or not all(is_integer(one) for one in listed):
        raise InputError(f"positions are integers, from 0 or from -1 backwards, or None for all; got {positions!r}")
    return tuple(int(one) for one in listed)


@contextmanager
def quietly() -> Generator[None]:
    """Without what single drifts and patterns say that they will cost."""
    level = log.level
    log.setLevel(max(log.getEffectiveLevel(), logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(level)
