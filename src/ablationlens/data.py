"""Model inputs together with the labels and the positions that an Output scores.

Everything is settled here once, before any model runs: what is padding, what each position should predict, which
positions count. Labels are stored *aligned*: ``labels[b, t]`` is what ``logits[b, t]`` should predict, so for the
default, the next token, it is token t + 1. ``-100`` means "no label".

Positions are counted over the real tokens of each example, from either end, so that the padding side changes nothing.
A batch without padding carries neither attention_mask nor position_ids (an all-ones mask can slow attention down); a
padded one carries both (GPT-2 with left padding and no position_ids is silently wrong).
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ablationlens.errors import InputError

NO_LABEL = -100
"""The label of a position, or of an example, that has none; the value that PyTorch's losses ignore."""

NAME_LENGTH = 30
"""How many characters of a text stand for the example on an axis."""

Inputs: TypeAlias = str | Sequence[Any] | Tensor | np.ndarray | Mapping[str, Any]
"""Texts, token ids, images or features, or the keyword arguments of the forward pass."""

Positions: TypeAlias = int | Sequence[int] | slice | Tensor | np.ndarray
"""Which positions count: see `batch`."""

_Tokenizer: TypeAlias = Any  # a Hugging Face tokenizer; duck-typed, so that nothing here imports transformers


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Model inputs with the labels and positions that an Output scores. Made by `batch`, which checks everything.

    Attributes:
        inputs: Keyword arguments of the forward pass, all with one leading batch axis. The key "input" means the
            first positional argument (plain modules, image tensors).
        labels: What the logits should predict: ``[batch, position]`` token ids, aligned with the logits;
            ``[batch]`` one class for each example, or one token for its scored position; floats are the targets of a
            regression, in the shape of the model's output. None if there are none.
        scored: ``[batch, position]``, True at the positions that an Output averages over. None for inputs without
            positions. A model that gives one row of logits for each example has no use for it.
        tokenizer: What made the tokens, and turns them back into text.
        texts: The texts that were tokenised.
    """

    inputs: Mapping[str, Tensor]
    labels: Int[Tensor, "batch position"] | Int[Tensor, " batch"] | Float[Tensor, "batch ..."] | None
    scored: Bool[Tensor, "batch position"] | None
    tokenizer: _Tokenizer = None
    texts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """The number of examples."""
        return next(iter(self.inputs.values())).shape[0]

    def __repr__(self) -> str:
        size = f"{len(self)} examples"
        if self.scored is not None:
            size += f" x {self.length} positions, {int(self.scored.sum())} scored"
        return f"Batch({size}; {', '.join(self.inputs)})"

    @property
    def length(self) -> int | None:
        """How many positions each row has, padding included; None for inputs without positions."""
        shape = _shape(self.inputs)
        return None if shape is None else shape[1]

    @property
    def attended(self) -> Bool[Tensor, "batch position"] | None:
        """True at real tokens, False at padding; None for inputs without positions."""
        return _attended(self.inputs)

    def take(self, index: Int[Tensor, " row"] | Sequence[int]) -> Batch:
        """These examples, in this order; repeats are allowed.

        Raises:
            InputError: if an index is out of range.
        """
        rows = torch.as_tensor(index, dtype=torch.long)
        # A bad index on an accelerator would kill its context. Looking at one there would wait for it, so only
        # indices that are at hand are checked.
        if rows.device.type == "cpu" and rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise InputError(f"examples are 0 to {len(self) - 1}, not {int(rows.min())} to {int(rows.max())}")

        def of(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, rows.to(tensor.device))

        return Batch(
            inputs={name: of(tensor) for name, tensor in self.inputs.items()},
            labels=None if self.labels is None else of(self.labels),
            scored=None if self.scored is None else of(self.scored),
            tokenizer=self.tokenizer,
            texts=None if self.texts is None else tuple(self.texts[row] for row in rows.tolist()),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            inputs={name: tensor.to(device) for name, tensor in self.inputs.items()},
            labels=None if self.labels is None else self.labels.to(device),
            scored=None if self.scored is None else self.scored.to(device),
        )

    def like(self, others: Inputs) -> Batch:
        """The paired batch that a counterfactual needs: other inputs, one for each example, of equal shape.

        Labels, scored positions and padding are copied from this batch: what is scored stays the clean example's.

        Args:
            others: Texts, lists of token ids, a tensor of the same shape as this batch's own input, or a mapping with
                some of its inputs.

        Raises:
            InputError: if the number of examples, or of the tokens of an example, differs.
        """
        texts = _texts(others)
        if isinstance(others, Mapping):
            return self._with_tensors(_named(others))
        key = _main_key(self.inputs)
        if isinstance(others, Tensor | np.ndarray):
            other = torch.as_tensor(others)
            other = other[None] if other.ndim == 1 and self.inputs[key].ndim == 2 and len(self) == 1 else other
            return self._with_tensors({key: other})
        rows = _rows(others) if texts is None else _tokenize(texts, self.tokenizer)
        replaced = {**self.inputs, key: self._placed(rows, key)}
        return replace(self, inputs=replaced, texts=texts)

    def tokens(self) -> list[list[str]]:
        """Each example's tokens as text, one for each position and "" at padding; ids where no tokenizer is known.

        Raises:
            InputError: if the inputs are not tokens.
        """
        key = _token_key(self.inputs)
        attended = self.attended
        if key is None or attended is None:
            raise InputError(f"the inputs ({', '.join(self.inputs)}) are not tokens")
        ids: list[list[int]] = self.inputs[key].tolist()
        real: list[list[bool]] = attended.tolist()
        known: dict[int, str] = {token: self._decoded(token) for row in ids for token in row}
        return [
            [known[token] if is_real else "" for token, is_real in zip(row, kept, strict=True)]
            for row, kept in zip(ids, real, strict=True)
        ]

    def names(self) -> tuple[str, ...]:
        """A short and unique name for each example, for the axis of a table or a figure."""
        names: list[str] = []
        taken: set[str] = set()
        for example in range(len(self)):
            text = "" if self.texts is None else " ".join(self.texts[example].split())[:NAME_LENGTH].strip()
            name = text or f"example {example}"
            repeat = 1
            while name in taken:
                repeat += 1
                name = f"{text or f'example {example}'} ({repeat})"
            taken.add(name)
            names.append(name)
        return tuple(names)

    def fingerprint(self) -> str:
        """sha256 over inputs, labels and scored positions; the device does not enter."""
        digest = hashlib.sha256()
        parts: list[tuple[str, Tensor | None]] = sorted(self.inputs.items())
        for name, tensor in [*parts, ("labels=", self.labels), ("scored=", self.scored)]:
            if tensor is None:
                digest.update(f"{name} none;".encode())
                continue
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _decoded(self, token: int) -> str:
        return str(token) if self.tokenizer is None else str(self.tokenizer.decode([token]))

    def _placed(self, rows: list[list[int]], key: str) -> Tensor:
        """These tokens where this batch has its real ones; its padding stays."""
        attended, own = self.attended, self.inputs[key]
        if attended is None or key != _token_key(self.inputs):
            raise InputError(f"this batch holds '{key}', not tokens: give a tensor of shape {list(own.shape)}")
        _same_number(len(self), len(rows))
        for example, (row, length) in enumerate(zip(rows, attended.sum(1).tolist(), strict=True)):
            if len(row) != length:
                raise InputError(
                    f"example {example} has {length} tokens in this batch and {len(row)} in its counterpart; a "
                    "counterfactual needs as many. Count them with len(tokenizer(text).input_ids)"
                )
        placed = own.clone()
        placed[attended] = torch.tensor([token for row in rows for token in row], device=own.device)
        return _checked_tokens(placed, key)

    def _with_tensors(self, others: Mapping[str, Tensor]) -> Batch:
        replaced = dict(self.inputs)
        for name, other in others.items():
            if name == "attention_mask":
                self._check_same_padding(other)
                continue
            if name not in replaced:
                raise InputError(f"this batch has no input '{name}': its inputs are {', '.join(replaced)}")
            own = replaced[name]
            _same_number(len(self), len(other))
            if other.shape != own.shape:
                raise InputError(
                    f"'{name}': example 0 has shape {list(own.shape[1:])} in this batch and {list(other.shape[1:])} in "
                    "its counterpart; a counterfactual needs the same shape. Pad both in the same way, or give texts "
                    "or lists of token ids, which are placed at this batch's real tokens"
                )
            is_token = name == _token_key(self.inputs)
            replaced[name] = (_checked_tokens(other, name) if is_token else other.to(own.dtype)).to(own.device)
        return replace(self, inputs=replaced, texts=None)

    def _check_same_padding(self, mask: Tensor) -> None:
        attended = self.attended
        if attended is None:
            raise InputError("this batch has no positions, so no attention_mask")
        _same_number(len(self), len(mask))
        if mask.shape != attended.shape:
            raise InputError(f"attention_mask has shape {list(mask.shape)}, this batch {list(attended.shape)}")
        other = mask.bool().to(attended.device)
        for example in _where_rows((other != attended).any(1)):
            raise InputError(
                f"example {example} has {int(attended[example].sum())} tokens in this batch and "
                f"{int(other[example].sum())} in its counterpart, or other padding; a counterfactual needs the same. "
                "Count them with len(tokenizer(text).input_ids)"
            )


def batch(
    inputs: Inputs,
    *,
    tokenizer: _Tokenizer = None,
    labels: Tensor | np.ndarray | Sequence[Any] | None = None,
    positions: Positions | None = None,
    attention_mask: Tensor | np.ndarray | Sequence[Any] | None = None,
) -> Batch:
    """Gather what a model reads and what its output is scored on.

    Args:
        inputs: A text or texts; token ids as an integer tensor ``[batch, position]`` (or one example, ``[position]``)
            or as lists, padded where their lengths differ; a float tensor ``[batch, ...]`` of images or features; or a
            mapping with the keyword arguments of the forward pass, for example a tokenizer's output. Padding inside a
            tensor is known only from an attention_mask: a pad token is often a real token as well.
        tokenizer: A Hugging Face tokenizer. It is not changed.
        labels: None for the next token. ``[batch, position]``: what the logits *at* each position should predict, so
            a Hugging Face style ``labels=input_ids`` must be shifted by one first. ``[batch, k]``: for the k positions
            that `positions` selects, in its order. ``[batch]``: the class of each example, or, if the model turns out
            to give logits for each position, the token to predict at its one scored position (the last real one, or
            the one that `positions` selects). Floats ``[batch, ...]``: the targets of a regression. -100 is no label.
        positions: Which positions are scored; by default those that have a label. An int, ints or a slice count the
            real tokens of each example, as Python indexing does (-1 is the last one), whatever the padding. A Bool
            tensor ``[batch, position]`` or ``[position]`` counts columns, padding included. Ints and a Bool tensor are
            taken at their word: a position without a label, such as the last one, whose next token is unknown, is good
            for a fixed logit or a KL, and any output that needs a label there refuses it. A slice is a range, and
            keeps those of its positions that have a label.
        attention_mask: ``[batch, position]``, 1 at real tokens and 0 at padding.

    Raises:
        InputError: for anything that does not fit together, with the example and what to type.
    """
    texts = _texts(inputs)
    named = _with_padding(_tensors(inputs, texts, tokenizer), attention_mask)
    attended = _attended(named)
    given = None if labels is None else _checked_labels(labels, named)
    if attended is None:
        if positions is not None:
            raise InputError(f"the inputs ({', '.join(named)}) have no positions: leave out positions=")
        return Batch(named, given, None, tokenizer, texts)
    aligned, scored = _targets(named, attended, given, positions)
    return Batch(named, aligned, scored, tokenizer, texts)


# --- inputs -----------------------------------------------------------------------------------------------------------


def _texts(inputs: Inputs) -> tuple[str, ...] | None:
    if isinstance(inputs, str):
        return (inputs,)
    if isinstance(inputs, Sequence) and len(inputs) and all(isinstance(item, str) for item in inputs):
        return tuple(inputs)
    return None


def _tensors(inputs: Inputs, texts: tuple[str, ...] | None, tokenizer: _Tokenizer) -> dict[str, Tensor]:
    """The inputs under the names of the forward pass's arguments."""
    if texts is not None:
        return _padded(_tokenize(texts, tokenizer), tokenizer)
    if isinstance(inputs, Mapping):
        return _named(inputs)
    if isinstance(inputs, Tensor | np.ndarray):
        return _bare(torch.as_tensor(inputs))
    return _padded(_rows(inputs), tokenizer)


def _tokenize(texts: Sequence[str], tokenizer: _Tokenizer) -> list[list[int]]:
    """Token ids of each text. Padding is left to us: the tokenizer's own settings may not be touched."""
    if tokenizer is None:
        raise InputError("texts need a tokenizer: al.batch(texts, tokenizer=tokenizer)")
    if not callable(tokenizer):
        raise InputError(
            f"the tokenizer, a {type(tokenizer).__name__}, cannot be called. A tokenizers.Tokenizer becomes a Hugging "
            "Face one with transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)"
        )
    encoded = cast("Mapping[str, Any]", tokenizer(list(texts)))
    rows = [[int(token) for token in row] for row in encoded["input_ids"]]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise InputError(f"the text {text!r} has no tokens")
    return rows


def _rows(inputs: Any) -> list[list[int]]:
    """Lists of token ids, one for each example; a flat list is one example."""
    items = list(inputs)
    if not items:
        raise InputError("there is no example: inputs is empty")
    if all(_is_integer(item) for item in items):
        items = [items]
    rows: list[list[int]] = []
    for example, item in enumerate(items):
        row: Any = item.tolist() if isinstance(item, Tensor | np.ndarray) else item
        if not isinstance(row, list | tuple) or not all(_is_integer(token) for token in cast("list[Any]", row)):
            raise InputError(
                f"example {example} is not a text or a list of token ids but a {type(item).__name__}. Give all texts, "
                "all lists of ids, or one tensor (torch.stack joins several)"
            )
        if not row:
            raise InputError(f"example {example} has no tokens")
        rows.append([operator.index(token) for token in cast("list[int]", row)])
    return rows


def _padded(rows: list[list[int]], tokenizer: _Tokenizer) -> dict[str, Tensor]:
    width = max(map(len, rows))
    if all(len(row) == width for row in rows):
        return {"input_ids": _checked_tokens(torch.tensor(rows), "input_ids")}
    if tokenizer is None:
        raise InputError(
            "the examples have different lengths, and without a tokenizer no pad token is known: give tokenizer=, or a "
            "padded tensor with attention_mask="
        )
    pad: int | None = tokenizer.pad_token_id
    if pad is None:
        raise InputError(
            "the examples have different lengths and the tokenizer has no pad token. Any token will do, because "
            "padding is neither attended nor scored: tokenizer.pad_token = tokenizer.eos_token"
        )
    left = getattr(tokenizer, "padding_side", "right") == "left"
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for example, row in enumerate(rows):
        real = slice(width - len(row), width) if left else slice(0, len(row))
        ids[example, real] = torch.tensor(row)
        mask[example, real] = 1
    return {"input_ids": _checked_tokens(ids, "input_ids"), "attention_mask": mask}


def _named(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    if "labels" in inputs:
        raise InputError(
            "the inputs hold 'labels', which would make the model compute a loss. Give them apart, aligned with the "
            "logits: al.batch(inputs, labels=...); next-token labels are the default"
        )
    named: dict[str, Tensor] = {}
    for name, value in inputs.items():
        if not isinstance(value, Tensor | np.ndarray):
            raise InputError(
                f"the input '{name}' is a {type(value).__name__}, not a tensor. A tokenizer returns tensors with "
                'return_tensors="pt"'
            )
        named[name] = torch.as_tensor(value)
    if not named:
        raise InputError("the mapping of inputs is empty")
    return _with_one_batch_axis(named)


def _with_one_batch_axis(named: dict[str, Tensor]) -> dict[str, Tensor]:
    key = _main_key(named)
    for name, tensor in named.items():
        if tensor.ndim == 0 or tensor.numel() == 0:
            raise InputError(f"the input '{name}' has shape {list(tensor.shape)}: it needs a batch axis and an example")
    examples = named[key].shape[0]
    ids = named.get("position_ids")
    if ids is not None and ids.ndim == 2 and ids.shape[0] == 1:
        named = {**named, "position_ids": ids.expand(examples, -1)}
    for name, tensor in named.items():
        if tensor.shape[0] != examples:
            raise InputError(f"the inputs disagree on the batch: '{key}' {examples}, '{name}' {tensor.shape[0]}")
    token_key = _token_key(named)
    return named if token_key is None else {**named, token_key: _checked_tokens(named[token_key], token_key)}


def _bare(inputs: Tensor) -> dict[str, Tensor]:
    """A tensor without a name: integers are tokens, floats are images or features."""
    if inputs.is_floating_point():
        if inputs.ndim < 2 or inputs.numel() == 0:
            raise InputError(f"float inputs are [batch, ...], not {list(inputs.shape)}: inputs[None] is one example")
        return {"input": inputs}
    if inputs.ndim > 2:
        raise InputError(
            f"an integer tensor of shape {list(inputs.shape)} is neither tokens [batch, position] nor float images: "
            "for images, type inputs.float() / 255"
        )
    return {"input_ids": _checked_tokens(inputs[None] if inputs.ndim == 1 else inputs, "input_ids")}


def _checked_tokens(tokens: Tensor, name: str) -> Int[Tensor, "batch position"]:
    if not _is_integral(tokens):
        raise InputError(f"'{name}' holds token ids, so integers, not {tokens.dtype}")
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise InputError(f"'{name}' is [batch, position] with at least one token, not {list(tokens.shape)}")
    for example in _where_rows((tokens < 0).any(1)):
        raise InputError(f"'{name}' holds a negative token id in example {example}")
    return tokens.long()


def _with_padding(named: dict[str, Tensor], attention_mask: Any) -> dict[str, Tensor]:
    """attention_mask and position_ids together, or neither where nothing is padded."""
    shape = _shape(named)
    if attention_mask is not None:
        if shape is None:
            raise InputError(f"the inputs ({', '.join(named)}) have no positions: leave out attention_mask=")
        if "attention_mask" in named:
            raise InputError(
                "attention_mask is given twice (in the inputs, or by padding lists of different lengths): leave one out"
            )
        given = torch.as_tensor(attention_mask)
        named = {**named, "attention_mask": given[None] if given.ndim == 1 else given}
    if shape is None:
        return named
    rest = {name: tensor for name, tensor in named.items() if name != "attention_mask"}
    given = named.get("attention_mask")
    device = named[_main_key(named)].device
    mask = torch.ones(shape, dtype=torch.long, device=device) if given is None else _checked_mask(given, shape, device)
    if "position_ids" not in named and bool(mask.all()):
        return rest
    positions = named.get("position_ids", (mask.cumsum(1) - 1).clamp(min=0))
    if positions.shape != mask.shape or not _is_integral(positions):
        raise InputError(f"position_ids are integers of shape {list(mask.shape)}, not {list(positions.shape)}")
    return {**rest, "attention_mask": mask, "position_ids": positions}


def _checked_mask(mask: Tensor, shape: tuple[int, int], device: torch.device) -> Int[Tensor, "batch position"]:
    if tuple(mask.shape) != shape:
        raise InputError(f"attention_mask has shape {list(mask.shape)}, the inputs are {list(shape)}")
    for example in _where_rows(((mask != 0) & (mask != 1)).any(1)):
        raise InputError(f"attention_mask holds only 0 and 1, but something else in example {example}")
    for example in _where_rows((mask == 0).all(1)):
        raise InputError(f"attention_mask is 0 everywhere in example {example}: it has no token")
    return mask.to(device, torch.long)


def _token_key(inputs: Mapping[str, Tensor]) -> str | None:
    if "input_ids" in inputs:
        return "input_ids"
    plain = inputs.get("input")
    return "input" if plain is not None and plain.ndim == 2 and _is_integral(plain) else None


def _main_key(inputs: Mapping[str, Tensor]) -> str:
    """The input that the others go with."""
    known = (key for key in ("input_ids", "inputs_embeds", "input", "pixel_values") if key in inputs)
    return next(known, next(iter(inputs)))


def _shape(inputs: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """(examples, positions), or None for inputs without positions, such as images."""
    key = _token_key(inputs) or ("inputs_embeds" if "inputs_embeds" in inputs else None)
    if key is None:
        return None
    if inputs[key].ndim < 2:
        raise InputError(f"'{key}' is [batch, position, ...], not {list(inputs[key].shape)}")
    return inputs[key].shape[0], inputs[key].shape[1]


def _attended(inputs: Mapping[str, Tensor]) -> Bool[Tensor, "batch position"] | None:
    shape = _shape(inputs)
    if shape is None:
        return None
    if "attention_mask" in inputs:
        return inputs["attention_mask"].bool()
    return torch.ones(shape, dtype=torch.bool, device=inputs[_main_key(inputs)].device)


# --- labels and positions ---------------------------------------------------------------------------------------------


def _checked_labels(labels: Any, named: Mapping[str, Tensor]) -> Tensor:
    main = named[_main_key(named)]
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError) as error:
        raise InputError(f"labels are numbers of shape [batch], [batch, position] or [batch, k]: {error}") from error
    if given.ndim == 0 or given.shape[0] != main.shape[0]:
        raise InputError(f"labels have shape {list(given.shape)}, but there are {main.shape[0]} examples")
    if given.is_floating_point():
        return given.to(main.device)
    if not _is_integral(given):
        raise InputError(f"labels are integers (token ids, classes) or float targets, not {given.dtype}")
    for example in _where_rows(((given < 0) & (given != NO_LABEL)).reshape(len(given), -1).any(1)):
        raise InputError(f"the labels of example {example} are negative; only -100, for no label, may be")
    return given.to(main.device, torch.long)


def _targets(
    named: Mapping[str, Tensor],
    attended: Bool[Tensor, "batch position"],
    given: Tensor | None,
    positions: Positions | None,
) -> tuple[Tensor | None, Bool[Tensor, "batch position"]]:
    """Labels and scored positions of inputs that have positions."""
    chosen = None if positions is None else _chosen(positions, attended)
    if given is not None and given.ndim == 1 and not given.is_floating_point():
        return given, _one_position(attended, chosen)
    labels = _aligned(named, attended, given, chosen)
    per_position = labels is not None and not labels.is_floating_point()
    labelled = attended & (labels != NO_LABEL) if per_position else attended
    if chosen is None:
        return labels, labelled
    scored = _mark(chosen, attended)
    if isinstance(positions, slice):
        scored = scored & labelled
    for example in _where_rows(~scored.any(1)):
        raise InputError(
            f"positions={_shown(positions)} leaves nothing to score in example {example}, which has "
            f"{int(attended[example].sum())} tokens. The last one has no next token to predict: give labels=, or, for "
            "an output that needs no label, positions=-1"
        )
    return labels, scored


def _aligned(
    named: Mapping[str, Tensor],
    attended: Bool[Tensor, "batch position"],
    given: Tensor | None,
    chosen: list[list[int]] | None,
) -> Tensor | None:
    """Labels [batch, position], aligned with the logits; floats as they come, in the shape of the model's output."""
    if given is None:
        key = _token_key(named)
        return None if key is None else _next_tokens(named[key], attended)
    if given.is_floating_point():
        return given
    if given.shape == attended.shape:
        return given.masked_fill(~attended, NO_LABEL)
    width = attended.shape[1]
    if given.ndim != 2 or chosen is None:
        raise InputError(
            f"labels have shape {list(given.shape)}, the inputs {list(attended.shape)}. Give [batch], one for each "
            f"position ([batch, {width}]), or [batch, k] with positions= selecting k positions"
        )
    return _spread(given, attended, chosen)


def _next_tokens(
    tokens: Int[Tensor, "batch position"], attended: Bool[Tensor, "batch position"]
) -> Int[Tensor, "batch position"]:
    labels = torch.full_like(tokens, NO_LABEL)
    both = attended[:, :-1] & attended[:, 1:]
    labels[:, :-1] = tokens[:, 1:].masked_fill(~both, NO_LABEL)
    return labels


def _spread(
    given: Int[Tensor, "batch chosen"], attended: Bool[Tensor, "batch position"], chosen: list[list[int]]
) -> Int[Tensor, "batch position"]:
    labels = torch.full(attended.shape, NO_LABEL, device=attended.device)
    for example, columns in enumerate(chosen):
        if len(columns) != given.shape[1]:
            raise InputError(
                f"positions= selects {len(columns)} positions of example {example}, but labels {list(given.shape)} "
                f"have {given.shape[1]} for it"
            )
        labels[example, columns] = given[example]
    return labels


def _one_position(
    attended: Bool[Tensor, "batch position"], chosen: list[list[int]] | None
) -> Bool[Tensor, "batch position"]:
    """Where a single label for each example is predicted: at the last real token, unless told otherwise."""
    if chosen is None:
        return _mark(_chosen(-1, attended), attended)
    for example, columns in enumerate(chosen):
        if len(columns) != 1:
            raise InputError(
                f"labels [batch] name one token for each example, but positions= selects {len(columns)} positions of "
                f"example {example}: give labels [batch, {len(columns)}]"
            )
    return _mark(chosen, attended)


def _mark(chosen: list[list[int]], attended: Bool[Tensor, "batch position"]) -> Bool[Tensor, "batch position"]:
    scored = torch.zeros(attended.shape, dtype=torch.bool)
    for example, columns in enumerate(chosen):
        scored[example, columns] = True
    return scored.to(attended.device)


def _chosen(positions: Positions, attended: Bool[Tensor, "batch position"]) -> list[list[int]]:
    """The columns that `positions` selects in each example, in its order."""
    if isinstance(positions, Tensor | np.ndarray):
        given = torch.as_tensor(positions)
        if given.dtype == torch.bool:
            return _chosen_columns(given.to(attended.device), attended)
        positions = cast("list[int]", given.tolist())
    wanted = positions if isinstance(positions, slice) else _integers(positions)
    columns: list[list[int]] = []
    for example, row in enumerate(attended.tolist()):
        real = [column for column, is_real in enumerate(row) if is_real]
        columns.append(real[wanted] if isinstance(wanted, slice) else _picked(real, wanted, example))
    return columns


def _integers(positions: Any) -> list[int]:
    items = list(cast("Sequence[Any]", positions)) if isinstance(positions, Sequence) else [positions]
    if not items or not all(_is_integer(item) for item in items):
        raise InputError(
            f"positions are an int, ints, a slice or a Bool tensor [batch, position], not {_shown(positions)}"
        )
    return [operator.index(item) for item in items]


def _picked(real: list[int], wanted: list[int], example: int) -> list[int]:
    for position in wanted:
        if not -len(real) <= position < len(real):
            raise InputError(
                f"position {position} is out of range: example {example} has {len(real)} tokens, so positions "
                f"{-len(real)} to {len(real) - 1}"
            )
    columns = [real[position] for position in wanted]
    if len(set(columns)) < len(columns):
        raise InputError(f"positions={_shown(wanted)} names one position of example {example} twice")
    return columns


def _chosen_columns(positions: Tensor, attended: Bool[Tensor, "batch position"]) -> list[list[int]]:
    if positions.shape not in (attended.shape, attended.shape[1:]):
        raise InputError(
            f"a Bool tensor of positions is [batch, position] = {list(attended.shape)} or [position], not "
            f"{list(positions.shape)}"
        )
    selected = positions.expand(attended.shape)
    for example in _where_rows((selected & ~attended).any(1)):
        raise InputError(f"positions= selects padding in example {example}")
    return [row.nonzero()[:, 0].tolist() for row in selected]


# --- small checks -----------------------------------------------------------------------------------------------------


def _where_rows(bad: Bool[Tensor, " batch"]) -> list[int]:
    """The rows that are True, in order; usually none."""
    return bad.nonzero()[:, 0].tolist()


def _same_number(own: int, other: int) -> None:
    if own != other:
        raise InputError(f"there are {own} examples in this batch and {other} counterparts: give one for each")


def _is_integral(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _shown(positions: Any) -> str:
    return "a Bool tensor" if isinstance(positions, Tensor | np.ndarray) else repr(positions)
