"""Decomposition: the weight matrices of a model as sums of rank-one components, and how important each is where."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ablationlens.adapters.base import Adapter, check_adapter
from ablationlens.adapters.watch import Watch
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError, UnknownNameError
from ablationlens.kinds import rank_one_taps
from ablationlens.layout import reads_encoder
from ablationlens.packing import choose
from ablationlens.registry import Registry
from ablationlens.sites import RankOne, Tap
from ablationlens.spd.functions import ImportanceFunction, check_fits, positionwise
from ablationlens.spd.sigmoids import sigmoid as sigmoid_of
from ablationlens.spd.signature import signature, warn_of_other_weights

Where: TypeAlias = tuple[int, str]
"""Layer and logical module, such as ``(1, "attn.q")``, a fused one, ``(1, "attn.qkv")``, an identity that is put
before one, ``(1, "attn.q.pre_identity")``, or the token embedding, ``(0, "embed")``."""


class Part(nn.Module):
    """The components of one module: W = (V U)^T and a remainder.

    Attributes:
        V: [in, C], what each component reads.
        U: [C, out], what it writes.
        function: how important each is for an input; None: all are, everywhere.

    Raises:
        InputError: if V and U are no finite float matrices that fit each other, or the function is of another module.
    """

    def __init__(
        self, V: Float[Tensor, "in C"], U: Float[Tensor, "C out"], function: ImportanceFunction | None = None
    ) -> None:
        super().__init__()
        RankOne(V, U)  # checks the factors
        if (V.dtype, V.device) != (U.dtype, U.device):
            came = f"V {V.dtype} on {V.device} and U {U.dtype} on {U.device}"
            raise InputError(f"V and U of a part are of one type on one device; got {came}: U.to(V)")
        if function is not None:
            check_fits(function, V.shape[1], V.shape[0])
        self.V, self.U = nn.Parameter(V.detach().clone()), nn.Parameter(U.detach().clone())
        self.function = function

    @property
    def components(self) -> int:
        """How many there are, the remainder not counted."""
        return self.V.shape[1]

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The sum of the components, without the remainder."""
        return (self.V @ self.U).T

    def codes(self, x: Float[Tensor, "*rows in"] | Int[Tensor, "*rows"]) -> Float[Tensor, "*rows C"]:
        """What each component reads of an input; tokens, which an embedding reads, stand for one-hot rows.

        Raises:
            InputError: if the input has another width, or is no tensor.
        """
        self._check_input(x)
        return x.to(self.V.dtype) @ self.V if x.is_floating_point() else functional.embedding(x, self.V)

    def importance(self, x: Float[Tensor, "*rows in"] | Int[Tensor, "*rows"]) -> Float[Tensor, "*rows C"]:
        """What the importance function gives for an input, before the sigmoid; 1 where there is none.

        Raises:
            InputError: if the input does not fit, or the function gives another number of them, or reads features
                where there are tokens.
        """
        self._check_input(x)
        rows = rows_of(x)
        if self.function is None:
            return self.V.new_ones(*rows, self.components)
        if not (x.is_floating_point() or self.function.reads_codes):
            raise InputError(
                f'an embedding has tokens and no features, so its importances come from its codes, "mlp"; this '
                f'function is "{self.function.kind}"'
            )
        found = self.function(self.codes(x) if self.function.reads_codes else x.to(self.V.dtype))
        if found.shape != (*rows, self.components):
            raise InputError(f"importances are {[*rows, self.components]} numbers; got {list(found.shape)}")
        return found

    def _check_input(self, x: Any) -> None:
        width = len(self.V)
        if not isinstance(x, Tensor) or (x.is_floating_point() and (not x.ndim or x.shape[-1] != width)):
            came = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"the input of this module is a tensor [..., {width}]; got {came}")


@dataclass(frozen=True)
class Importances:
    """Causal importances of one module.

    Attributes:
        lower: from 0 to 1, for masks.
        upper: for the importance loss: those of leaky sigmoids exceed 1.
    """

    lower: Float[Tensor, "*rows C"]
    upper: Float[Tensor, "*rows C"]


class Decomposition(nn.Module):
    """Rank-one components of some weight matrices of a model, as stochastic parameter decomposition finds them.

    Component c of a module is the matrix ``outer(U[c], V[:, c])``; what the components leave of the weight, the
    remainder ``W - (V U)^T``, is one more component of each module. Importances depend on the module's input, at each
    position of each example (arXiv 2506.20790). The components of an inserted identity are read and written at the
    input of the module that it stands before; their remainder is ``I - (V U)^T``. The input features of an embedding
    are tokens: V is [token, C].

    Args:
        parts: (layer, logical module) -> its components.
        sigmoid: what makes an importance function's output into importances: see `sigmoids.SIGMOIDS`.
        provenance: where it comes from, JSON-able.

    Raises:
        InputError: if there are no parts, or they go by something else than (layer, logical module).
        UnknownNameError: if there is no such sigmoid.
    """

    def __init__(
        self, parts: Mapping[Where, Part], *, sigmoid: str = "leaky_hard", provenance: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.places: tuple[Where, ...] = _places(parts)
        self._parts = nn.ModuleList(parts.values())
        self.sigmoid = sigmoid
        self._squash = sigmoid_of(sigmoid)
        if not isinstance(provenance, Mapping | None):
            raise InputError(f"provenance says where it comes from, {{'from': ...}}; got {provenance!r:.60}")
        self.provenance = dict(provenance or {})

    def __repr__(self) -> str:
        count = sum(part.components for _, part in self.items())
        return f"Decomposition({len(self.places)} modules, {count:,} components and {len(self.places)} remainders)"

    def __getitem__(self, where: Where) -> Part:
        if where not in self.places:
            names = ", ".join(name_of(place) for place in self.places)
            raise UnknownNameError(f"this decomposition has no {where!r}: it has {names}")
        return self._parts[self.places.index(where)]  # type: ignore[return-value]

    def items(self) -> Iterator[tuple[Where, Part]]:
        """Each module with its components."""
        yield from zip(self.places, self._parts, strict=True)  # type: ignore[misc]

    @property
    def fingerprint(self) -> str:
        """sha256 over components, importance functions and the sigmoid."""
        digest = hashlib.sha256(f"{self.places} {self.sigmoid}".encode())
        for name, tensor in self.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def history(self) -> pd.DataFrame:
        """Losses and L0 of its training, a row for each step that was noted; empty if it was not trained here."""
        return pd.DataFrame(self.provenance.get("history", []))

    # -- on a model -----------------------------------------------------------------------------------------------

    def registry(self, adapter: Adapter) -> Registry:
        """The components of all modules, each module's remainder last, on any host of the model.

        It has the factors as they are now, in copies of its own: a training that goes on does not change it.

        Raises:
            InputError: if the model has no such modules, or of other shapes.
        """
        self.weights(adapter)
        factors = {where: (part.V.detach().clone(), part.U.detach().clone()) for where, part in self.items()}
        return adapter.registry("rank_one", factors=factors)

    def weights(self, adapter: Adapter) -> dict[Where, Float[Tensor, "out in"]]:
        """The model's own weights of the decomposed modules.

        That of an inserted identity is the identity matrix. A warning says, once for each model, where they are not
        those that the components were made of.

        Raises:
            InputError: if a module is missing, or has another shape, or is a part of another one.
        """
        check_adapter(adapter)
        found: dict[Where, Tensor] = {}
        adapter.layout.refuse_parts_of_another(self.places)
        for where, part in self.items():
            weight = adapter.weight(*where).detach()
            if weight.shape != (part.U.shape[1], part.V.shape[0]):
                raise InputError(
                    f"{name_of(where)} is a {weight.shape[0]} x {weight.shape[1]} matrix, and its components are "
                    f"{part.U.shape[1]} x {part.V.shape[0]}: this decomposition is of another model"
                )
            found[where] = weight
        made_of = self.provenance.get("weights", {})
        warn_of_other_weights(self, adapter, {name_of(where): weight for where, weight in found.items()}, made_of)
        return found

    def made_of(self, adapter: Adapter) -> Decomposition:
        """Keep signatures of a model's weights in the provenance: elsewhere a warning says that it is another model.

        Training, `svd`, and `load` of a run with an adapter do so by themselves.

        Raises:
            InputError: if the model has no such modules, or of other shapes.
        """
        self.provenance["weights"] = {
            name_of(where): signature(weight) for where, weight in self.weights(adapter).items()
        }
        return self

    def reconstruction(self, adapter: Adapter) -> pd.DataFrame:
        """How well the components, without the remainders, give the weights back: a row for each module.

        Columns: layer, module, components; error, the mean square of the remainder's entries; relative, the remainder's
        Frobenius norm over that of the weight.
        """
        rows: list[dict[str, Any]] = []
        with torch.no_grad():
            for where, weight in self.weights(adapter).items():
                part = self[where]
                remainder = weight.to(part.V) - part.weight
                rows.append(
                    {
                        "layer": where[0],
                        "module": where[1],
                        "components": part.components,
                        "error": float(remainder.square().mean()),
                        "relative": float(remainder.norm() / weight.norm().clamp(min=1e-30)),
                    }
                )
        return pd.DataFrame(rows)

    # -- importances ----------------------------------------------------------------------------------------------

    def squashed(self, raw: Float[Tensor, "*rows C"]) -> Importances:
        """Importances from what an importance function gives."""
        return Importances(self._squash.lower(raw), self._squash.upper(raw))

    def importances_of(self, inputs: Mapping[Where, Tensor]) -> dict[Where, Importances]:
        """Importances for inputs of the modules, [*rows, in] each; differentiable."""
        return {where: self.squashed(part.importance(inputs[where])) for where, part in self.items()}

    def importances(
        self, adapter: Adapter, data: Batch, *, rows: int | None = None
    ) -> dict[Where, Float[Tensor, "example *position C"]]:
        """Causal importances on the unmodified model, from 0 to 1.

        Importance functions read one position at a time, but that input depends on what came before it. A function of
        one's own may read earlier positions too, and not later ones: importances of a prefix would not be those of the
        whole, and those of a padded example would depend on its padding.

        Args:
            adapter: the model.
            data: the examples.
            rows: examples of one forward pass; chosen if not given.

        Returns:
            For each module [example, position, component] (without positions where the model has none), float32 on the
            CPU; 0 at padding.

        Raises:
            InputError: if the data or the model does not fit, or an importance function looks ahead.
        """
        self.weights(adapter)
        check_data(adapter, data)
        if rows is not None and (not is_integer(rows) or rows < 1):
            raise InputError(f"rows is a whole number from 1; got {rows!r}")
        size = rows or choose(len(data), data.length, adapter.device, adapter.vocabulary).examples
        here, taps = data.to(adapter.device), read_taps(self, adapter)
        chunks: dict[Where, list[Tensor]] = {where: [] for where in self.places}
        watch = Watch(taps.values())
        with torch.no_grad(), adapter.session(watch) as run:
            for index in torch.arange(len(data), device=adapter.device).split(size):
                batch = here.take(index)
                run(batch)
                inputs = {at: watch.seen[tap] for at, tap in taps.items()}
                if not chunks[self.places[0]]:
                    self._refuse_looking_ahead(inputs)
                for where, found in self.importances_of(inputs).items():
                    lower = _checked(found.lower, where)
                    real = batch.encoder_attended if reads_encoder(where[1]) else batch.attended
                    if real is not None and lower.ndim == 3:
                        lower = lower * real[..., None]
                    chunks[where].append(lower.float().cpu())
        return {where: torch.cat(chunk) for where, chunk in chunks.items()}

    def _refuse_looking_ahead(self, inputs: Mapping[Where, Tensor]) -> None:
        """Refuse a function of the user's own that gives another importance where what comes later is left out.

        Raises:
            InputError: naming the module.
        """
        for where, part in self.items():
            read = inputs[where]
            if positionwise(part.function) or len(rows_of(read)) < 2 or read.shape[1] < 2:
                continue
            half = read.shape[1] // 2
            whole, prefix = (
                self.squashed(part.importance(read)).lower,
                self.squashed(part.importance(read[:, :half])).lower,
            )
            if not torch.allclose(whole[:, :half], prefix, rtol=0, atol=1e-3, equal_nan=True):
                most = float((whole[:, :half] - prefix).abs().max())
                raise InputError(
                    f"the importance function of {name_of(where)} looks ahead: importances of the first {half} "
                    f"positions change by up to {most:.3g} where the {read.shape[1] - half} after them are left out. "
                    "Give one that reads no later position, such as al.spd.importance_function('vector_mlp', ...)"
                )


def _places(parts: Any) -> tuple[Where, ...]:
    """The places of the parts.

    Raises:
        InputError: if these are no parts by layer and module.
    """
    if not isinstance(parts, Mapping) or not parts:
        came = "none" if isinstance(parts, Mapping) else type(parts).__name__
        raise InputError(
            f'a decomposition has the components of some modules: {{(0, "attn.q"): al.spd.Part(V, U)}}; got {came}'
        )
    for where, part in parts.items():
        if not isinstance(where, tuple) or len(where) != 2 or not is_integer(where[0]) or not isinstance(where[1], str):
            raise InputError(f'components go by (layer, logical module), such as (0, "attn.q"); got {where!r}')
        if not isinstance(part, Part):
            raise InputError(f"components are al.spd.Part(V, U), by (layer, module); got {type(part).__name__}")
    return tuple((int(layer), module) for layer, module in parts)


def read_taps(decomposition: Decomposition, adapter: Adapter) -> dict[Where, Tap]:
    """Where the input of each module shows: its own, or that of the fused matrix that it is a part of."""
    taps: dict[Where, Tap] = {}
    for layer, module in decomposition.places:
        own, (read, _) = Tap(layer, module, "in"), rank_one_taps(adapter.layout.module(layer, module))
        taps[layer, module] = own if adapter.has(own) else read
    return taps


def rows_of(read: Tensor) -> torch.Size:
    """The rows of a module's input, [*rows, in]; of an embedding's, whose rows are tokens, all of its shape."""
    return read.shape[:-1] if read.is_floating_point() else read.shape


def check_data(adapter: Adapter, data: Batch) -> None:
    """Refuse what are no examples, or none of this model.

    Raises:
        InputError: with the line to type instead.
    """
    if not isinstance(data, Batch) or not len(data):
        raise InputError(f"the data is a Batch of examples, al.batch(inputs, tokenizer=...); got {data!r:.60}")
    adapter.check_data(data)


def name_of(where: Where) -> str:
    """Name of a module, as components have it."""
    return f"L{where[0]}.{where[1]}"


def _checked(lower: Tensor, where: Where) -> Tensor:
    """Refuse importances that cannot be masks: a smooth sigmoid leaves [0, 1] a little, which is clamped."""
    if not bool(torch.isfinite(lower).all()):
        raise InputError(
            f"importances of {name_of(where)} are not finite: look for NaN or infinity in the inputs, in the model's "
            "weights and in the importance function"
        )
    return lower.clamp(0, 1)
