"""TorchAdapter: any `nn.Module`, Hugging Face models included, edited through module hooks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablationlens.adapters import orientation
from ablationlens.adapters.addresses import Address, AddressBook, head_size, part_rows
from ablationlens.adapters.architectures import Architecture, architecture_of, layer_list
from ablationlens.adapters.base import Adapter, Place, Placed, Run
from ablationlens.adapters.hooking import find_tensor, first_tensor, hook, keep
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
from ablationlens.data import Batch
from ablationlens.data.inputs import token_key
from ablationlens.edits import Lerp, lerp, low_rank
from ablationlens.errors import AdapterError, InputError, UnknownNameError
from ablationlens.layout import Heads, Layout, Module
from ablationlens.registry import Registry
from ablationlens.sites import Location, Tap
from ablationlens.types import Side

log = logging.getLogger("ablationlens")

DRY_TOKENS = 4
"""Tokens of the dry forward."""


@dataclass(frozen=True)
class Firing:
    """What the dry forward saw of one input or output of a module.

    Attributes:
        ranks: rank of each call among all inputs and outputs of all modules.
        shape: of the first tensor in it, at the first call, or None if it holds none.
    """

    ranks: tuple[int, ...]
    shape: tuple[int, ...] | None


LOGITS = ("logits", "last_hidden_state")
"""Where the output of a Hugging Face model holds what is scored: the first of these that it has."""


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returns."""
    named = (getattr(output, name, None) for name in LOGITS)
    return first_tensor(next((value for value in named if value is not None), output))


class Live:
    """The edits of the pass that is running, which the hooks of a session look up, and what they have seen.

    Between passes the hooks do nothing, so that an output, or the user, may run the model as it is.
    """

    def __init__(self) -> None:
        self.running = False
        self.edits: dict[tuple[int, Side], list[Placed]] = {}
        self.seen: dict[tuple[int, Side], Tensor] = {}
        self.fired: set[tuple[int, Side]] = set()

    def begin(self, edits: Sequence[Placed]) -> None:
        """Take the edits of a new pass."""
        self.fired.clear()
        self.seen.clear()
        self.edits.clear()
        for placed in edits:
            self.edits.setdefault(placed.write.key, []).append(placed)

    def check(self) -> None:
        """Refuse a pass in which a site did not fire.

        Raises:
            AdapterError: naming the sites.
        """
        if len(self.fired) < len(self.edits):
            missed = [group[0].write for key, group in self.edits.items() if key not in self.fired]
            names = ", ".join(f"{place.address}.{place.hook}" for place in missed)
            raise AdapterError(f"these sites did not fire in this forward pass, so their ablation did nothing: {names}")


def _hook_edit(key: tuple[int, Side], place: Place, live: Live) -> RemovableHandle:
    kept = any(holder._forward_hooks for holder in place.holders)
    in_place = place.fresh and not kept

    def edit(activation: Tensor) -> Tensor | None:
        if not live.running:
            return None
        live.fired.add(key)
        for placed in live.edits[key]:
            if isinstance(placed.edit, Lerp):
                activation = lerp(activation, placed.edit, in_place=in_place)
            else:
                assert placed.read is not None
                activation = low_rank(activation, live.seen[placed.read.key], placed.edit)
        return activation

    return hook(place, edit)


class TorchAdapter(Adapter):
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
        self._accepted = accepted_arguments(model)
        self._addresses, self._stored, layout = self._find()
        self._dry_example = self._example(example)
        self._firings = self._dry_forward()
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

    # -- finding modules ------------------------------------------------------------------------------------------

    def _find(self) -> tuple[dict[Tap, Address], dict[tuple[int, str], tuple[nn.Module, slice]], Layout]:
        """Addresses of all taps, the module that stores each weight (with its rows), and the layout."""
        family = self.architecture
        found = layer_list(self.model, family) if family is not None else None
        if family is None or found is None:
            return self._find_by_path()
        return self._find_by_family(family, *found)

    def _find_by_family(
        self, family: Architecture, path: str, layers: nn.ModuleList
    ) -> tuple[dict[Tap, Address], dict[tuple[int, str], tuple[nn.Module, slice]], Layout]:
        book = AddressBook()
        heads: list[Heads] = []
        size = head_size(cast(Any, self.model).config)
        for layer, block in enumerate(layers):
            for name, relative in family.modules.items():
                module = block.get_submodule(relative)
                address = f"{path}.{layer}.{relative}"
                parts = family.fused.get(name, ())
                book.add(layer, name, module, address, parts, part_rows(len(parts)))
            heads.append(Heads(layer, book.columns(layer, "attn.o") // size, size))
        return book.addresses, book.stored, Layout(tuple(book.modules), tuple(heads))

    def _find_by_path(self) -> tuple[dict[Tap, Address], dict[tuple[int, str], tuple[nn.Module, slice]], Layout]:
        book = AddressBook()
        for path, module in self.model.named_modules():
            if orientation.orientation(module) is not None:
                book.add(len(book.modules), path or type(module).__name__, module, path or "(root)")
        return book.addresses, book.stored, Layout(tuple(book.modules), transformer=False)

    def _only_fired(self, layout: Layout) -> Layout:
        """The layout without silent modules; by paths, layers are renumbered in the order of execution."""
        fired = [m for m in layout.modules if self._fires(Tap(m.layer, m.name, "out"))]
        if layout.transformer:
            return Layout(tuple(m for m in layout.modules if m in fired or m.parts), layout.heads)
        written = {m.name: self._addresses[Tap(m.layer, m.name, "out")] for m in fired}
        fired.sort(key=lambda m: self._firings[written[m.name].module, "out"].ranks)
        old = {m.name: m.layer for m in fired}
        modules = tuple(Module(layer, m.name, m.rows, m.columns, m.operation) for layer, m in enumerate(fired))
        self._addresses = {
            Tap(m.layer, m.name, side): self._addresses[Tap(old[m.name], m.name, side)]
            for m in modules
            for side in ("in", "out")
        }
        self._stored = {(m.layer, m.name): self._stored[old[m.name], m.name] for m in modules}
        return Layout(modules, transformer=False)

    # -- the dry forward ------------------------------------------------------------------------------------------

    def _example(self, example: Any) -> Batch:
        if isinstance(example, Batch):
            return example
        if isinstance(example, Mapping):
            return Batch(inputs=dict(example), labels=None, scored=None)
        if isinstance(example, Tensor):
            key = "input" if example.is_floating_point() else "input_ids"
            return Batch(inputs={key: example}, labels=None, scored=None)
        if example is not None:
            raise InputError(f"example= is a tensor, a mapping of tensors or a Batch; got {type(example).__name__}")
        if self._token_model():
            tokens = torch.full((1, DRY_TOKENS), self._plain_token(), dtype=torch.long, device=self.device)
            return Batch(inputs={"input_ids": tokens}, labels=None, scored=None)
        raise InputError(
            f"{type(self.model).__name__} is not a token model that this library knows, so it needs an example of its "
            "input: al.adapt(model, example=torch.zeros(1, 3, 32, 32))"
        )

    def _plain_token(self) -> int:
        """Any token but padding, which makes some models warn of a missing attention mask."""
        return int(getattr(getattr(self.model, "config", None), "pad_token_id", None) == 0)

    def _token_model(self) -> bool:
        return getattr(getattr(self.model, "config", None), "vocab_size", None) is not None

    def _dry_forward(self) -> dict[tuple[nn.Module, Side], Firing]:
        """What fired when the example ran, by module (which, unlike an id, is right in a copy of the adapter too)."""
        firings: dict[tuple[nn.Module, Side], Firing] = {}
        rank = itertools.count()

        def record(module: nn.Module, side: Side, value: Any) -> None:
            before = firings.get((module, side))
            if before is not None:
                firings[module, side] = replace(before, ranks=(*before.ranks, next(rank)))
                return
            tensor = find_tensor(value)
            firings[module, side] = Firing((next(rank),), None if tensor is None else tuple(tensor.shape))

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            record(module, "in", args[0] if args else next(iter(kwargs.values()), None))

        def after(module: nn.Module, _inputs: Any, output: Any) -> None:
            record(module, "out", output)

        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(alone(self.model))
            for module in self.model.modules():
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after).remove)
            self._run_dry(self._dry_example)
        return firings

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
                f"never fired: {', '.join(self.silent)}"
            )
        if len(firing.ranks) > 1 and not self.allow_repeated:
            raise AdapterError(
                f"{address.name} is called {len(firing.ranks)} times in one forward pass, and a component is one use of "
                "a weight; to ablate all its calls together: al.adapt(model, ..., allow_repeated=True)"
            )
        if firing.shape is None:
            raise AdapterError(f"{address.name} ({tap}) holds no tensor: name a module that takes or gives one")
        return Place(
            address=address.name,
            module=address.module,
            hook=address.hook,
            features=address.features,
            size=address.size,
            order=min(firing.ranks),
            feature_axis=address.feature_axis,
            axes=len(firing.shape),
            fresh=tap.side == "out" and tap.location is None,
            holders=(address.module, address.owner),
        )

    def _locate(self, tap: Tap) -> Address:
        if tap.location is not None:
            return self._custom(tap, tap.location)
        address = self._addresses.get(tap)
        if address is None:
            module = self.layout.module(tap.layer, tap.module)
            raise UnknownNameError(f"{type(self).__name__} has no activation {tap} of its own (module {module.name})")
        return address

    # -- taps of the user's own -----------------------------------------------------------------------------------

    hosts: tuple[str, ...] = ("torch", "nnsight")
    """Hosts whose addresses this adapter understands, its own first."""

    def _custom(self, tap: Tap, location: Location) -> Address:
        """Resolve a tap by the address that it carries for this host."""
        known = dict(location.addresses)
        name = next((known[host] for host in self.hosts if host in known), None)
        if name is None:
            raise AdapterError(
                f"'{tap.module}' has an address for {', '.join(known)} and none for {self.host}: add one, "
                f'addresses={{"{self.host}": "..."}}'
            )
        module, hook = self._named(name)
        if (module, hook) not in self._firings:
            self._firings = self._dry_forward()  # a flag of the model may have been set since
        firing = self._firings.get((module, hook))
        if firing is None or firing.shape is None:
            return Address(name, module, hook, slice(0, 0), 0, location.axis, module)  # `place` refuses it
        axes, axis = len(firing.shape), location.axis
        if not -axes <= axis < axes or axis % axes == 0:
            raise InputError(
                f"axis {axis} of {name}: its activation is {list(firing.shape)}, whose features can be on the axes 1 "
                f"to {axes - 1}; axis 0 is the batch"
            )
        size = firing.shape[axis]
        return Address(name, module, hook, slice(0, size), size, -1 if axis % axes == axes - 1 else axis % axes, module)

    def _named(self, name: str) -> tuple[nn.Module, Side]:
        """The module of a path, and which side of it: its output, or what the path's end ".input" or ".output" says."""
        modules = dict(self.model.named_modules())
        if name in modules:
            return modules[name], "out"
        path, _, end = name.rpartition(".")
        if path in modules and end in ("input", "output"):
            return modules[path], "in" if end == "input" else "out"
        near = get_close_matches(name, modules, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "model.named_modules() lists them"
        raise UnknownNameError(f"no module '{name}' in {type(self.model).__name__}: {hint}")

    def check(self, registry: Registry) -> None:
        """Weights in plain PyTorch are what their names say."""

    def weight(self, layer: int, module: str) -> Tensor:
        stored, rows = self._store(layer, module)
        return orientation.matrix(stored)[rows]

    def bias(self, layer: int, module: str) -> Tensor | None:
        stored, rows = self._store(layer, module)
        value = orientation.bias(stored)
        return None if value is None else value[rows]

    def _store(self, layer: int, module: str) -> tuple[nn.Module, slice]:
        self.layout.module(layer, module)
        return self._stored[layer, module]

    # -- running --------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Tensor:
        """Logits of the model."""
        first, named = self.arguments(batch)
        return logits_of(self.model(*first, **named))

    def arguments(self, batch: Batch) -> tuple[list[Tensor], dict[str, Any]]:
        """Positional and keyword arguments of a forward pass: the only lines that know what a model takes."""
        inputs = dict(batch.inputs)
        first = [inputs.pop("input")] if "input" in inputs else []
        if "input_ids" in inputs and "input_ids" not in self._accepted:
            first = [inputs.pop("input_ids")]
        if "use_cache" in self._accepted:
            inputs["use_cache"] = cast(Any, False)
        return first, {k: v for k, v in inputs.items() if k != "position_ids" or k in self._accepted}

    @cached_property
    def context(self) -> int | None:
        """Positions that the model takes at most, if it says so."""
        config = getattr(self.model, "config", None)
        sizes = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
        return next((int(size) for size in sizes if isinstance(size, int) and size > 0), None)

    @property
    def vocabulary(self) -> int | None:
        size = getattr(getattr(self.model, "config", None), "vocab_size", None)
        return int(size) if isinstance(size, int) and size > 0 else None

    @property
    def version(self) -> int:
        return sum(version([*module._parameters.values(), *module._buffers.values()]) for module in self._modules)

    def check_data(self, batch: Batch) -> None:
        self._check_length(batch)
        key = token_key(batch.inputs)
        if key is not None and self.vocabulary is not None and (top := int(batch.inputs[key].max())) >= self.vocabulary:
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
    def session(self) -> Generator[Run]:
        live = Live()
        handles: list[RemovableHandle] = []
        building = frozen(self.model) if torch.is_grad_enabled() else nullcontext()

        def run(batch: Batch, edits: Sequence[Placed] = ()) -> Tensor:
            self._check_length(batch)
            live.begin(edits)
            if not handles:
                self._install(edits, handles, live)
            live.running = True
            try:
                logits = self.forward(batch)
            finally:
                live.running = False
            live.check()
            return logits

        with alone(self.model), evaluating(self._modules), building:
            try:
                yield run
            finally:
                for handle in handles:
                    handle.remove()

    def run(self, batch: Batch, edits: Sequence[Placed] = ()) -> Tensor:
        with self.session() as run:
            return run(batch, edits)

    def _install(self, edits: Sequence[Placed], handles: list[RemovableHandle], live: Live) -> None:
        """Hook every edit, and note each hook in `handles` as soon as it is there."""
        # edits first, so that a read sees what the edits of its own activation leave
        for key, place in {placed.write.key: placed.write for placed in edits}.items():
            handles.append(_hook_edit(key, place, live))
        for key, place in {placed.read.key: placed.read for placed in edits if placed.read is not None}.items():
            handles.append(hook(place, keep(live.seen, key)))

    def read(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        self.check_data(batch)
        places = {tap: self.place(tap) for tap in taps}
        seen: dict[tuple[int, Side], Tensor] = {}
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(alone(self.model))
            stack.enter_context(evaluating(self._modules))
            for place in {place.key: place for place in places.values()}.values():
                stack.callback(hook(place, keep(seen, place.key)).remove)
            self.forward(batch)
        return {tap: place.take(seen[place.key]) for tap, place in places.items()}

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
