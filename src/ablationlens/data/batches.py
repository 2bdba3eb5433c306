"""The Batch: what it holds, its rows, its counterfactual pair, and what its examples are called."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ablationlens.data.checks import where_rows
from ablationlens.data.inputs import Inputs, checked_arguments, encoder_of, main_key, shape_of, texts_of, token_key
from ablationlens.data.padding import attended_of
from ablationlens.data.tokens import Tokenizer, checked_tokens, rows_of, tokenize
from ablationlens.errors import InputError

NAME_LENGTH = 30
"""How many characters of a text stand for the example on an axis."""


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
    tokenizer: Tokenizer = None
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
        """How many positions the logits of each row have, padding included; None for inputs without positions."""
        shape = shape_of(self.inputs)
        return None if shape is None else shape[1]

    @property
    def attended(self) -> Bool[Tensor, "batch position"] | None:
        """True at real tokens, False at padding; None for inputs without positions."""
        return attended_of(self.inputs)

    @property
    def encoder_attended(self) -> Bool[Tensor, "batch position"] | None:
        """The same at the positions of an encoder, in a batch for a model that has a decoder too."""
        return attended_of(encoder_of(self.inputs))

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
        texts = texts_of(others)
        if isinstance(others, Mapping):
            return self._with_tensors(checked_arguments(others))
        key = main_key(self.inputs)
        if isinstance(others, Tensor | np.ndarray):
            other = torch.as_tensor(others)
            other = other[None] if other.ndim == 1 and self.inputs[key].ndim == 2 and len(self) == 1 else other
            return self._with_tensors({key: other})
        rows = rows_of(others) if texts is None else tokenize(texts, self.tokenizer)
        replaced = {**self.inputs, key: self._placed(rows, key)}
        return replace(self, inputs=replaced, texts=texts)

    def tokens(self) -> list[list[str]]:
        """Each example's tokens as text, one for each position and "" at padding; ids where no tokenizer is known.

        Raises:
            InputError: if the inputs are not tokens.
        """
        key = token_key(self.inputs)
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
            flat = tensor.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _decoded(self, token: int) -> str:
        return str(token) if self.tokenizer is None else str(self.tokenizer.decode([token]))

    def _placed(self, rows: list[list[int]], key: str) -> Tensor:
        """These tokens where this batch has its real ones; its padding stays."""
        attended, own = self.encoder_attended, self.inputs[key]
        if attended is None or key != token_key(encoder_of(self.inputs)):
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
        return checked_tokens(placed, key)

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
            is_token = name in (token_key(self.inputs), token_key(encoder_of(self.inputs)))
            replaced[name] = (checked_tokens(other, name) if is_token else other.to(own.dtype)).to(own.device)
        return replace(self, inputs=replaced, texts=None)

    def _check_same_padding(self, mask: Tensor) -> None:
        attended = self.encoder_attended
        if attended is None:
            raise InputError("this batch has no positions, so no attention_mask")
        _same_number(len(self), len(mask))
        if mask.shape != attended.shape:
            raise InputError(f"attention_mask has shape {list(mask.shape)}, this batch {list(attended.shape)}")
        other = mask.bool().to(attended.device)
        for example in where_rows((other != attended).any(1)):
            raise InputError(
                f"example {example} has {int(attended[example].sum())} tokens in this batch and "
                f"{int(other[example].sum())} in its counterpart, or other padding; a counterfactual needs the same. "
                "Count them with len(tokenizer(text).input_ids)"
            )


def _same_number(own: int, other: int) -> None:
    if own != other:
        raise InputError(f"there are {own} examples in this batch and {other} counterparts: give one for each")
