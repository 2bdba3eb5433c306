"""A clean and a corrupt input, paired for patching: what is run, what is put in, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from ablationlens.ablations import Counterfactual, Zero
from ablationlens.ablations.base import check_batch
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call, check_no_base
from ablationlens.provenance import packages
from ablationlens.results import Attribution, AttributionByPosition, attribution, attribution_by_position
from ablationlens.sweep import GivenMasks, MaskSource, Sweep

Direction: TypeAlias = Literal["denoising", "noising"]
"""Which input is run: the corrupt one, with clean activations put in, or the clean one, with corrupt ones put in."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Clean and corrupt examples in one direction of patching.

    Attributes:
        direction: "denoising" or "noising".
        clean: the clean examples, whose labels and scored positions are what is measured.
        corrupt: the corrupt inputs, with the clean examples' labels and scored positions.
        patched: keeps what the run itself computes where a gate is 1, and puts in the other input's activation at 0.
        plain: the same model and output, to run either input as it is.
    """

    direction: Direction
    clean: Batch
    corrupt: Batch
    patched: MaskedModel
    plain: MaskedModel

    @property
    def denoising(self) -> bool:
        return self.direction == "denoising"

    @property
    def sign(self) -> int:
        """What turns the effect of the run's own activation into the effect of the clean one."""
        return -1 if self.denoising else 1

    @property
    def design(self) -> str:
        """What one patch is, in terms of what holds its clean activation."""
        return "put_one_in" if self.denoising else "leave_one_out"

    def sweep(self, masks: MaskSource, rows: int | None) -> Sweep:
        """Masks over the input that is run."""
        return self._against_clean(Sweep(self.patched, self._run, masks, rows=rows))

    @property
    def _run(self) -> Batch:
        return self.corrupt if self.denoising else self.clean

    @property
    def _other(self) -> Batch:
        return self.clean if self.denoising else self.corrupt

    def _against_clean(self, sweep: Sweep) -> Sweep:
        """Let an output that compares with the unmodified model compare with its clean run, whatever is run."""
        sweep.bound.reference = self.plain.reference(self.plain.bind(self.clean))
        return sweep

    def positions(self) -> int:
        """Positions at which a patch can be made.

        Raises:
            InputError: if the inputs, or an activation of the registry, have none.
        """
        length = self.clean.length
        if length is None or not self.patched.plan.positional:
            what = "these inputs have" if length is None else "an activation of this registry has"
            raise InputError(f"by_position=True patches one position at a time, but {what} none: leave it out")
        return length

    def attributed(
        self,
        method: str,
        weights: Float64[np.ndarray, " example *cell"],
        run_output: Float64[np.ndarray, " example"],
        sweep: Sweep,
        facts: dict[str, Any],
    ) -> Attribution | AttributionByPosition:
        """Weights with the bias that makes the prediction for the input that was run exact.

        Args:
            method: its name.
            weights: of the clean activations against the corrupt ones.
            run_output: output of the input that was run, without a patch.
            sweep: what ran.
            facts: what the method adds to the provenance.
        """
        weights[~np.isfinite(weights)] = np.nan
        everything = GivenMasks(torch.ones(1, len(self.plain.registry)))
        other = self._against_clean(Sweep(self.plain, self._other, everything, packing=sweep.packing))
        other_output = other.outputs(0, 1)[0].double().numpy()
        clean, corrupt = (other_output, run_output) if self.denoising else (run_output, other_output)
        bias = corrupt if self.denoising else clean - np.nansum(weights.reshape(len(weights), -1), axis=1)
        provenance = {
            "method": method,
            "direction": self.direction,
            "clean_output": clean.tolist(),
            "corrupt_output": corrupt.tolist(),
            **({} if self.denoising else {"full_output": clean.tolist()}),
            **self.plain.describe(),
            "ablation": Counterfactual(self.corrupt).describe(),  # in both directions: what a gate of 0 means
            "data": {"examples": len(self.clean), "fingerprint": self.clean.fingerprint()},
            "packing": {"draws": sweep.packing.draws, "examples": sweep.packing.examples},
            "threads": torch.get_num_threads(),
            "packages": packages(),
            **facts,
        }
        label = attribution if weights.ndim == 2 else attribution_by_position
        return label(method, weights, bias, self.plain.registry, self.clean.names(), provenance=provenance)


def paired(model: MaskedModel, clean: Batch, corrupt: Batch, direction: str) -> Pair:
    """Check the two inputs against each other and set up the model that patches; the user's own stays as it is.

    Raises:
        InputError: if the examples do not line up one by one and token by token, or there is no such direction.
    """
    if direction not in get_args(Direction):
        raise InputError(f'direction is "denoising" or "noising"; got {direction!r}')
    _check_pair(clean, corrupt)
    check_call(model, clean)
    check_no_base(model, "patching")
    corrupt = clean.like(corrupt.inputs)
    checked: Direction = "denoising" if direction == "denoising" else "noising"
    other = clean if checked == "denoising" else corrupt
    return Pair(
        checked,
        clean,
        corrupt,
        model.having(ablation=Counterfactual(other)),
        model.having(ablation=Zero()),
    )


def _check_pair(clean: Any, corrupt: Any) -> None:
    """Refuse examples whose tokens do not line up: an activation would be put where it does not belong."""
    check_batch(clean, "the clean input")
    check_batch(corrupt, "the corrupt input")
    if len(clean) != len(corrupt):
        raise InputError(
            f"there are {len(clean)} clean and {len(corrupt)} corrupt examples: give one corrupt counterpart for each, "
            "corrupt = clean.like(texts)"
        )
    if set(clean.inputs) - PADDING != set(corrupt.inputs) - PADDING:
        raise InputError(
            f"the clean input holds {', '.join(clean.inputs)} and the corrupt one {', '.join(corrupt.inputs)}: make it "
            "from inputs of the same names, corrupt = clean.like(other)"
        )
    for ours, theirs in ((clean.attended, corrupt.attended), (clean.encoder_attended, corrupt.encoder_attended)):
        if ours is not None and theirs is not None:
            _check_lined_up(ours.cpu(), theirs.cpu())


PADDING = {"attention_mask", "position_ids"}
"""Inputs that a batch has or not, as it has padding or not."""


def _check_lined_up(ours: Tensor, theirs: Tensor) -> None:
    for example, (mine, other) in enumerate(zip(ours.sum(1).tolist(), theirs.sum(1).tolist(), strict=True)):
        if mine != other:
            raise InputError(
                f"example {example} has {mine} tokens in the clean and {other} in the corrupt input; patching needs as "
                "many, each in the place of its counterpart. Count them with len(tokenizer(text).input_ids), then "
                "corrupt = clean.like(texts)"
            )
    if not torch.equal(ours, theirs):
        raise InputError(
            "the clean and the corrupt input are not padded in the same places: corrupt = clean.like(texts) puts each "
            "token in the place of its counterpart"
        )
