"""TorchAdapter: any `nn.Module`, Hugging Face models included, edited through module hooks."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablationlens.adapters import orientation
from ablationlens.adapters.addresses import Address
from ablationlens.adapters.architectures import (
    Architecture,
    architecture_of,
)
from ablationlens.adapters.base import PatternPoint, Place, Placed, Run
from ablationlens.adapters.configuration import config_of, first_position, positions_of
from ablationlens.adapters.dry import Firing, firings_of
from ablationlens.adapters.examples import (
    check_kind,
    given_example,
    image_example,
    likely_example,
    refuse_integers,
    takes_tokens,
    token_example,
)
from ablationlens.adapters.finding import Found, find_by_architecture, find_by_path
from ablationlens.adapters.hooking import by_example, first_tensor, hook
from ablationlens.adapters.live import Live, hook_edit
from ablationlens.adapters.own_taps import OwnTaps
from ablationlens.adapters.patterns import forming, hook_patterns, last_returned, read_patterns
from ablationlens.adapters.probe import advice
from ablationlens.adapters.state import (
    accepted_arguments,
    alone,
    autocast,
    evaluating,
    fingerprint,
    frozen,
    refuse_compiled,
    version,
)
from ablationlens.adapters.watch import Watch
from ablationlens.data import Batch
from ablationlens.data.inputs import encoder_of, token_key
from ablationlens.edits import Coded
from ablationlens.errors import AdapterError, InputError, UnknownNameError
from ablationlens.layout import Heads, Layout, Module
from ablationlens.registry import Registry
from ablationlens.sites import Tap
from ablationlens.types import Side

log = logging.getLogger("ablationlens")

LOGITS = ("logits", "image_embeds", "text_embeds", "last_hidden_state")
"""Where the output of a Hugging Face model holds what is scored: the first of these that it has."""


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returns."""
    named = (getattr(output, name, None) for name in LOGITS)
    return first_tensor(next((value for value in named if value is not None), output))


def remove(handles: list[RemovableHandle]) -> None:
    """Take hooks off, and forget them."""
    for handle in handles:
        handle.remove()
    handles.clear()


class TorchAdapter(OwnTaps):
    """Adapter for plain PyTorch modules and Hugging Face models.

    Args:
        model: any module; families of the architecture table get logical names, others the paths of their modules.
        example: an input for the dry forward; Hugging Face token models need none.
        architecture: where the logical modules of a model outside the table are.
        allow_repeated: ablate every call of a module that one forward pass calls more than once.

    Raises:
        AdapterError: if the model is compiled, or has nothing to cut.
        InputError: if an example is needed and not given.
    """

    host = "torch"

    def __init__(
        self,
        model: nn.Module,
        example: Any = None,
        *,
        architecture: Architecture | None = None,
        allow_repeated: bool = False,
    ) -> None:
        refuse_compiled(model)
        self.model = model
        self.architecture = architecture or architecture_of(model)
        self._modules = tuple(model.modules())  # listed once: walking the tree costs more than the hooks of a pass
        self.allow_repeated = allow_repeated
        self._accepted = accepted_arguments(self._called())
        self._addresses, self._stored, layout = self._find()
        self._dry_example = self._example(example)
        try:
            self._firings = self._dry_forward()
        except RuntimeError as error:
            if example is not None and not self._token_model():
                refuse_integers(self._dry_example, error, type(model).__name__)
            raise
        except (TypeError, ValueError, AttributeError) as error:  # what models raise for an input that they miss
            if example is not None:
                raise
            tried = ", ".join(f"{name} {list(value.shape)}" for name, value in self._dry_example.inputs.items())
            raise InputError(
                f"{type(model).__name__} did not run on {tried} ({type(error).__name__}: {error}); "
                "give an example of its inputs: al.adapt(model, example={...})"
            ) from error
        watched = {address.name: address for address in self._addresses.values()}
        self.silent = tuple(name for name, at in watched.items() if (at.module, at.hook) not in self._firings)
        self.layout = self._only_fired(layout)
        if not self.layout.modules:
            raise AdapterError(
                f"{type(model).__name__} ran no Linear, Conv1D or Conv2d module, so there is nothing to cut"
            )
        if self.silent:
            log.debug("never fired in a forward pass, so nothing can be cut there: %s", ", ".join(self.silent))

    def __repr__(self) -> str:
        layers = len(self.layout.layers)
        silent = f", silent: {', '.join(self.silent)}" if self.silent else ""
        names = ", ".join(self.layout.names[:10])
        return f"{type(self).__name__}({type(self.model).__name__}, {layers} layers, {names}{silent})"

    def _called(self) -> nn.Module:
        """The module whose arguments are those of a forward pass."""
        return self.model

    # -- finding modules ------------------------------------------------------------------------------------------

    def _find(self) -> Found:
        """Addresses of all taps, the module that stores each weight (with its rows), and the layout."""
        if self.architecture is None:
            return find_by_path(self.model, advice(self.model))
        return find_by_architecture(self.model, self.architecture)

    def _only_fired(self, layout: Layout) -> Layout:
        """The layout without silent modules; by paths, layers are renumbered in the order of execution."""
        fired = [m for m in layout.modules if self._fires(Tap(m.layer, m.name, "out"))]
        embeddings = tuple(m for m in layout.embeddings if self._fires(Tap(m.layer, m.name, "out")))
        if layout.transformer:
            modules = tuple(m for m in layout.modules if m in fired or m.parts)
            return replace(layout, modules=modules, embeddings=embeddings)
        written = {m.name: self._addresses[Tap(m.layer, m.name, "out")] for m in fired}
        fired.sort(key=lambda m: self._firings[written[m.name].module, "out"].ranks)
        old = {m.name: m.layer for m in fired}
        modules = tuple(Module(layer, m.name, m.rows, m.columns, m.operation) for layer, m in enumerate(fired))
        old |= {m.name: m.layer for m in embeddings}
        self._addresses = {
            Tap(m.layer, m.name, side): self._addresses[Tap(old[m.name], m.name, side)]
            for m in (*modules, *embeddings)
            for side in ("in", "out")
        }
        self._stored = {(m.layer, m.name): self._stored[old[m.name], m.name] for m in (*modules, *embeddings)}
        return replace(layout, modules=modules, embeddings=embeddings)

    # -- the dry forward ------------------------------------------------------------------------------------------

    def _example(self, example: Any) -> Batch:
        """The input of the dry forward.

        Raises:
            InputError: if the user has to give one.
        """
        if example is not None:
            return given_example(example)
        device = next((p.device for p in self.model.parameters()), self.device)
        if self._token_model():
            return token_example(self.model, self._accepted, device)
        image = image_example(self.model, device, self.dtype)
        if image is None:
            raise InputError(
                f"{type(self.model).__name__} is no token or image model that this library knows, so it needs an "
                f"example of its input: al.adapt(model, example={likely_example(self.model)})"
            )
        return image

    def _token_model(self) -> bool:
        return takes_tokens(self.model)

    def _dry_forward(self, example: Batch | None = None) -> dict[tuple[nn.Module, Side], Firing]:
        """What fired when the example, or another, ran: by module, which is right in a copy of the adapter too."""
        chosen = self._dry_example if example is None else example
        with alone(self.model):
            return firings_of(self.model, lambda: self._run_dry(chosen))

    def _run_dry(self, example: Batch) -> None:
        self.run(example)

    def _fires(self, tap: Tap) -> bool:
        address = self._addresses.get(tap)
        return address is not None and (address.module, address.hook) in self._firings

    def has(self, tap: Tap) -> bool:
        return tap.location is not None or self._fires(tap)

    def place(self, tap: Tap) -> Place:
        address = self._locate(tap)
        firing = self._firings.get((address.module, address.hook))
        if firing is None:
            raise AdapterError(
                f"{address.name} ({tap}) never fires in a forward pass, so an ablation there would do nothing; "
                + (f"never fired: {', '.join(self.silent)}" if tap.location is None else self._fire_near(address.name))
            )
        if len(firing.ranks) > 1 and not self.allow_repeated:
            raise AdapterError(
                f"{address.name} is called {len(firing.ranks)} times in one forward pass, and a component is one use "
                "of a weight; to ablate all its calls together: al.adapt(model, ..., allow_repeated=True)"
            )
        embedding = tap.location is None and self.layout.module(tap.layer, tap.module).operation == "embedding"
        if embedding:
            firing = self._of_tokens(tap, firing)
        if firing.shape is None:
            raise AdapterError(f"{address.name} ({tap}) holds no tensor of floats: name a module that has one")
        folded = self._positions_folded(address, firing.shape)
        shape = firing.shape if not folded else (len(self._dry_example), folded, *firing.shape[1:])
        if tap.location is not None:
            return self._place_custom(tap.location, address, shape, folded)
        if shape[0] != len(self._dry_example):
            raise AdapterError(
                f"{address.name} ({tap}) has {shape[0]} rows for {len(self._dry_example)} examples: its first axis is "
                "not the batch, so it is not known which row belongs to which example"
            )
        return Place(
            address=address.name,
            module=address.module,
            hook=address.hook,
            features=address.features,
            size=address.size,
            order=min(firing.ranks),
            feature_axis=address.feature_axis,
            axes=len(shape),
            fresh=tap.side == "out",
            holders=(address.module, address.owner),
            shape=shape,
            folded=folded,
        )

    def _of_tokens(self, tap: Tap, firing: Firing) -> Firing:
        """What fires at an embedding; its tokens stand for one-hot rows.

        Raises:
            AdapterError: if it does not embed the tokens of each example, but positions, which all examples share.
        """
        after = self._addresses[replace(tap, side="out")]
        other = self._fired_otherwise((after.module, after.hook))
        shape = self._firings[after.module, after.hook].shape
        if shape is None or len(shape) != 3:
            return replace(firing, shape=None)
        if (
            other is not None
            and other.shape is not None
            and (shape[0], other.shape[0]) != (len(self._dry_example), 2 * len(self._dry_example))
        ):
            raise AdapterError(
                f"{after.name} has {other.shape[0]} rows for {2 * len(self._dry_example)} examples: it embeds what all "
                "examples share, such as positions, and its components cannot be ablated example by example"
            )
        return firing if tap.side == "out" else replace(firing, shape=(*shape[:2], self._addresses[tap].size))

    def _positions_folded(self, address: Address, shape: tuple[int, ...]) -> int:
        """Positions in the first axis of an activation [batch * position, feature]; 0 for every other."""
        each, left = divmod(shape[0], len(self._dry_example))
        return each if len(shape) == 2 and address.feature_axis == -1 and not left and each > 1 else 0

    def _locate(self, tap: Tap) -> Address:
        if tap.location is not None:
            return self._custom(tap, tap.location)
        address = self._addresses.get(tap)
        if address is None:
            module = self.layout.module(tap.layer, tap.module)
            raise UnknownNameError(f"{type(self).__name__} has no activation {tap} of its own (module {module.name})")
        return address

    # -- weights --------------------------------------------------------------------------------------------------

    def check(self, registry: Registry) -> None:
        """Weights in plain PyTorch are what their names say."""

    def weight(self, layer: int, module: str) -> Tensor:
        known = self.layout.module(layer, module)
        if known.operation == "identity":
            return torch.eye(known.columns, device=self.device, dtype=self.dtype)
        stored, rows = self._stored[layer, module]
        return orientation.matrix(stored)[rows]

    def bias(self, layer: int, module: str) -> Tensor | None:
        if self.layout.module(layer, module).operation == "identity":
            return None
        stored, rows = self._stored[layer, module]
        value = orientation.bias(stored)
        return None if value is None else value[rows]

    # -- running --------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Tensor:
        """Logits of the model."""
        first, named = self.arguments(batch)
        return logits_of(self.model(*first, **named))

    def arguments(self, batch: Batch) -> tuple[list[Tensor], dict[str, Any]]:
        """Positional and keyword arguments of a forward pass: the only lines that know what a model takes.

        Raises:
            InputError: if the model has a decoder, and nothing for it to read.
        """
        inputs = dict(batch.inputs)
        if self._decodes and not any(name.startswith("decoder_input") for name in inputs):
            raise InputError(
                f"{type(self.model).__name__} reads two sequences, and its logits belong to the second: "
                'al.batch({"input_ids": ..., "decoder_input_ids": ...})'
            )
        if "position_ids" in inputs and self._first_position:
            inputs["position_ids"] = self._positions(inputs)
        first = [inputs.pop("input")] if "input" in inputs else []
        if "input_ids" in inputs and "input_ids" not in self._accepted:
            first = [inputs.pop("input_ids")]
        if "use_cache" in self._accepted:
            inputs["use_cache"] = cast(Any, False)
        return first, {k: v for k, v in inputs.items() if k != "position_ids" or k in self._accepted}

    def _positions(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Positions counted as the model counts them, where they are counted from 0."""
        given, mask = inputs["position_ids"], inputs.get("attention_mask")
        first = int((given if mask is None else given[mask.bool()]).min())
        return given + self._first_position if first == 0 else given

    @cached_property
    def _first_position(self) -> int:
        return first_position(self.model)

    @cached_property
    def _decodes(self) -> bool:
        """Whether the model has an encoder, and a decoder whose input has to be given."""
        return bool(getattr(config_of(self.model), "is_encoder_decoder", False)) and (
            "decoder_input_ids" in self._accepted
        )

    @cached_property
    def context(self) -> int | None:
        """Positions that the model takes at most, if it says so."""
        return positions_of(self.model)

    @property
    def vocabulary(self) -> int | None:
        size = getattr(config_of(self.model), "vocab_size", None)
        return int(size) if isinstance(size, int) and size > 0 else None

    @property
    def version(self) -> int:
        held = ((*module._parameters.values(), *module._buffers.values()) for module in self._modules)
        weights = version(tensor for own in held for tensor in own)
        hooks = [key for module in self._modules for key in (*module._forward_hooks, *module._forward_pre_hooks)]
        return hash((weights, *hooks))

    def check_data(self, batch: Batch) -> None:
        check_kind(batch, self._dry_example, type(self.model).__name__)
        self._check_length(batch)
        for key in dict.fromkeys((token_key(encoder_of(batch.inputs)), token_key(batch.inputs))):
            top = -1 if key is None else int(batch.inputs[key].max())
            if self.vocabulary is not None and top >= self.vocabulary:
                raise InputError(
                    f"the inputs hold token {top}, and the model knows 0 to {self.vocabulary - 1}: "
                    "is this the model's own tokenizer?"
                )

    def _check_length(self, batch: Batch) -> None:
        if batch.length is not None and self.context is not None and batch.length > self.context:
            raise InputError(
                f"inputs of {batch.length} positions do not fit into the model's context of {self.context}; "
                f"cut them, for example tokens[:, :{self.context}]"
            )

    @contextmanager
    def session(self, watch: Watch | None = None) -> Generator[Run]:
        live, watch = Live(), Watch() if watch is None else watch
        handles: list[RemovableHandle] = []
        hooked = False
        building = frozen(self.model) if torch.is_grad_enabled() else nullcontext()

        def run(batch: Batch, edits: Sequence[Placed] = ()) -> Tensor:
            nonlocal hooked
            self._check_length(batch)
            live.begin(edits)
            if not handles or (edits and not hooked):
                remove(handles)  # those of a pass without edits: what watches has to come after what edits
                self._install(edits, handles, live)
                self._watch(watch, handles, live)
                hook_patterns(self, watch, examples, handles)
                hooked = bool(edits)
            live.running, live.batch = True, batch
            try:
                with watch.one_pass():
                    logits = self.forward(batch)
            finally:
                live.running, live.batch = False, None
            live.check()
            return logits

        def examples() -> int:
            return 0 if live.batch is None else len(live.batch)

        with alone(self.model), evaluating(self._modules), building, forming(watch, self._called()):
            try:
                yield run
            finally:
                remove(handles)

    def run(self, batch: Batch, edits: Sequence[Placed] = ()) -> Tensor:
        with self.session() as run:
            return run(batch, edits)

    def _install(self, edits: Sequence[Placed], handles: list[RemovableHandle], live: Live) -> None:
        """Hook every edit, and note each hook in `handles` as soon as it is there."""
        # edits first, so that a read sees what the edits of its own activation leave
        for key, place in {placed.write.key: placed.write for placed in edits}.items():
            handles.append(hook_edit(key, place, live))
        later = {placed.read.key for placed in edits if placed.read is not None and isinstance(placed.edit, Coded)}
        for key, place in {placed.read.key: placed.read for placed in edits if placed.read is not None}.items():
            note = live.note(key, copy=key in later)  # other modules may run before its use
            handles.append(hook(place, by_example(place, lambda: live.batch, note)))

    def _watch(self, watch: Watch, handles: list[RemovableHandle], live: Live) -> None:
        """Hook every activation that is watched; after the edits, so that what they leave is seen."""
        for tap in watch.activations:
            place = self.place(tap)

            def note(activation: Tensor, tap: Tap = tap, place: Place = place) -> None:
                # a copy: a module such as nn.ReLU(inplace=True) overwrites what it is given
                watch.note(tap, place.take(activation.clone()))

            handles.append(hook(place, by_example(place, lambda: live.batch, note)))

    def read(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        self.check_data(batch)
        watch = Watch(taps)
        with torch.no_grad(), self.session(watch) as run:
            run(batch)
        return {tap: watch.seen[tap] for tap in watch.activations}

    def patterns(
        self, batch: Batch, layers: Sequence[int] | None = None, attention: str | None = None
    ) -> dict[int, Float[Tensor, "batch head query key"]]:
        return read_patterns(self, batch, layers, attention)

    def pattern_point(self, heads: Heads) -> PatternPoint:
        return last_returned(self, heads)

    # -- provenance -----------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        cast_to = autocast(self.device)
        return {
            "host": self.host,
            "class": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "fingerprint": fingerprint(self.model),
            **({} if cast_to is None else {"autocast": cast_to}),
        }
