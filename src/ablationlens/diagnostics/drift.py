"""Drift: how the predictions of a model change under ablation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.data.inputs import token_key
from ablationlens.diagnostics.clean import MEASURES, Collected, blocks, clean_pass
from ablationlens.diagnostics.drift_result import Drift, labelled
from ablationlens.diagnostics.given_masks import Masks, described, given_masks
from ablationlens.diagnostics.places import Places
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.progress import bar
from ablationlens.provenance import packages
from ablationlens.sweep import Pass, Sweep


def drift(
    model: MaskedModel, data: Batch, masks: Masks, *, rows: int | None = None, show_bar: bool | None = None
) -> Drift:
    """How far the predictions under each mask are from those of the unmodified model, for every example and position.

    - ``kl``, KL(clean || ablated), and ``reverse_kl``, KL(ablated || clean), in nats;
    - ``js``, the Jensen-Shannon divergence in nats: symmetric, from 0 to log 2 (Lin, 1991);
    - ``top1_changed``, 1 where the most probable class is another one; a tie is no change;
    - ``log_probability_change`` of the right class in nats and ``rank_change`` of it in places, ablated minus clean:
      negative and positive where ablation makes it less likely.

    With a base the clean predictions are those of the base with nothing ablated, by the same gates. Of a base with
    several samples each is compared with itself, and the values are means over samples, so that ``top1_changed`` is a
    share; the most probable class is the one that most samples have.

    All are computed from log-softmax in float32, or float64 where the logits are. What the output of the model is
    changes nothing here; see `ablation_table` for the drift and the output of many parts at once.

    What it costs: one forward pass of every example for each mask, packed, and one of the unmodified model, for each
    sample of a base. Memory
    holds the clean log-probabilities (real positions x classes), one pass of logits, and the result; logits under
    ablation are not kept.

    Args:
        model: the masked model; its logits are [batch, position, class] or [batch, class].
        data: the examples.
        masks: a tensor [mask, component] or [mask, position, component], a design, or by name what is ablated: a mask
            [component] or as ``model.mask`` gives it, components or their names, None for nothing:
            ``{"without": "L0.head 3", "at the end": model.mask(off="L0.head 3", positions=-1, data=data)}``.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        The values, NaN at padding and, where one needs the right class, at positions without a label.

    Raises:
        InputError: if the masks do not fit the registry or the data, or the model makes no predictions.
    """
    check_call(model, data)
    names, source = given_masks(model, data, masks)
    begun = time.perf_counter()
    plain = model.having(output=_nothing)  # its own output may need labels that drift does not
    sweep = Sweep(plain, data, source, rows=rows)
    sweep.announce("drift")
    one = _of_sample(plain, data, sweep, 0, rows, show_bar)
    values, tops = one.values, [(one.before, one.after)]
    for sample in range(1, sweep.samples):
        one = _of_sample(plain, data, sweep, sample, rows, show_bar)
        values += one.values
        tops.append((one.before, one.after))
    values /= sweep.samples
    before, after = (_most_frequent(each) for each in zip(*tops, strict=True))
    real = one.places.real.numpy()
    tokens = np.full(real.shape, -1, dtype=np.int64)
    key = token_key(data.inputs)
    if key is not None and data.inputs[key].shape == real.shape:
        tokens[real] = data.inputs[key].cpu().numpy()[real]
    arrays = {
        **dict(zip(MEASURES, values, strict=True)),
        "after": after,
        "before": before,
        "token": tokens,
        "real": real,
        "scored": one.places.scored.numpy(),
    }
    provenance = {
        **{key: value for key, value in model.describe().items() if key != "output"},
        "data": {"examples": len(data), "fingerprint": data.fingerprint()},
        "masks": described(masks, source),
        "packing": {"draws": sweep.packing.draws, "examples": sweep.packing.examples},
        "packages": packages(),
        "seconds": round(time.perf_counter() - begun, 2),
    }
    tokenizer = data.tokenizer if one.places.are_positions else None  # classes of whole examples are no tokens
    return Drift(labelled(arrays, names, data.names()), provenance, tokenizer=tokenizer)


@dataclass(frozen=True)
class _Sample:
    """What one sample of a base gives, or the model itself.

    Attributes:
        values: [measure, mask, example, position].
        before: the most probable class, [example, position].
        after: the same under each mask, [mask, example, position].
        places: where there are predictions.
    """

    values: Float[np.ndarray, "measure mask example position"]
    before: Integer[np.ndarray, "example position"]
    after: Integer[np.ndarray, "mask example position"]
    places: Places


def _of_sample(
    model: MaskedModel, data: Batch, sweep: Sweep, sample: int, rows: int | None, show_bar: bool | None
) -> _Sample:
    collected = Collected(data)
    clean_pass(model, data, collected.keep, rows=rows, sample=sample)
    clean = collected.clean()
    real = clean.places.real.numpy()
    values = np.full((len(MEASURES), sweep.source.draws, *real.shape), np.nan, dtype=np.float32)
    before, after = (np.full((*draws, *real.shape), -1, dtype=np.int32) for draws in ((), (sweep.source.draws,)))
    before[real] = clean.top.cpu().numpy()

    def keep(one: Pass) -> None:
        found, top = clean.compare(one)
        draws, examples = (slice(part.start, part.stop) for part in (one.draws, one.examples))
        at = real[examples]
        values[:, draws, examples][..., at] = found.numpy()
        after[draws, examples][:, at] = top.numpy()

    spans = blocks(sweep)
    label = "drift" if sweep.samples == 1 else f"drift, sample {sample + 1} of {sweep.samples}"
    for start, stop in bar(spans, total=len(spans), unit="block", label=label, show_bar=show_bar):
        sweep.visit(start, stop, keep, sample=sample)
    return _Sample(values, before, after, clean.places)


def _most_frequent(classes: Sequence[Integer[np.ndarray, ...]]) -> Integer[np.ndarray, ...]:
    """The class that most samples have, of several that as many have the smallest."""
    return classes[0] if len(classes) == 1 else torch.from_numpy(np.stack(classes)).mode(dim=0).values.numpy()


def _nothing(logits: Tensor) -> Tensor:
    """An output that asks for nothing."""
    return torch.zeros(len(logits), device=logits.device)
