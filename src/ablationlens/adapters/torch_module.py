"""TorchAdapter: any `nn.Module`, Hugging Face models included, edited through module hooks."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablationlens.adapters import orientation
from ablationlens.adapters.architectures import Architecture, architecture_of, layer_list
from ablationlens.adapters.base import Adapter, Place, Placed
from ablationlens.data import Batch
from ablationlens.edits import Lerp, LowRank, lerp, low_rank
from ablationlens.errors import AdapterError, InputError, UnknownNameError
from ablationlens.layout import Heads, Layout, Module
from ablationlens.registry import Registry
from ablationlens.sites import Tap
from ablationlens.types import Side

log = logging.getLogger("ablationlens")

FINGERPRINT_SAMPLES = 4096
"""Numbers of each parameter that the fingerprint reads: enough to tell models apart, cheap for large ones."""


@dataclass(frozen=True)
class Firing:
    """What the dry forward saw of one hooked module."""

    order: int
    calls: int
    axes: int


@dataclass(frozen=True)
class Address:
    """Where a tap would live, before the dry forward says whether it does."""

    name: str
    module: nn.Module
    hook: Side
    features: slice
    size: int
    feature_axis: int
    owner: nn.Module
    """The module that stores the weight: its own hooks may have kept the tensor."""


class TorchAdapter(Adapter):
    """Adapter for plain PyTorch modules and Hugging Face models.

    Args:
        model: any module; families of the architecture table get logical names, others the paths of their modules.
        example: an input for the dry forward; Hugging Face token models need none.
        allow_repeated: ablate every call of a module that one forward pass calls more than once.

    Raises:
        AdapterError: if the model is compiled, or has nothing to cut.
        InputError: if an example is needed and not given.
    """

    host = "torch"

    def __init__(self, model: nn.Module, example: Any = None, *, allow_repeated: bool = False) -> None:
        refuse_compiled(model)
        self.model = model
        self.allow_repeated = allow_repeated
        self._accepted = accepted_arguments(model)
        self._addresses, self._stored, layout = self._find()
        self._firings = self._dry_forward(self._example(example))
        watched = {id(a.module): a.name for a in self._addresses.values()}
        self.silent = tuple(name for key, name in watched.items() if key not in self._firings)
        self.layout = self._only_fired(layout)
        if not self.layout.modules:
            raise AdapterError(
                f"{type(model).__name__} ran no Linear, Conv1D or Conv2d module, so there is nothing to cut"
            )
        if self.silent:
            log.info("never fired in a forward pass, so nothing can be cut there: %s", ", ".join(self.silent))

    def __repr__(self) -> str:
        layers = len(self.layout.layers)
        silent = f", silent: {', '.join(self.silent)}" if self.silent else ""
        names = ", ".join(self.layout.names[:10])
        return f"{type(self).__name__}({type(self.model).__name__}, {layers} layers, {names}{silent})"

    # -- finding modules ------------------------------------------------------------------------------------------

    def _find(self) -> tuple[dict[Tap, Address], dict[tuple[int, str], tuple[nn.Module, slice]], Layout]:
        """Addresses of all taps, the module that stores each weight (with its rows), and the layout."""
        family = architecture_of(self.model)
        found = layer_list(self.model, family) if family is not None else None
        if family is None or found is None:
            return self._find_by_path()
        return self._find_by_family(family, *found)

    def _find_by_family(
        self, family: Architecture, path: str, layers: nn.ModuleList
    ) -> tuple[dict[Tap, Address], dict[tuple[int, str], tuple[nn.Module, slice]], Layout]:
        book = AddressBook()
        heads: list[Heads] = []
        config = cast(Any, self.model).config
        for layer, block in enumerate(layers):
            for name, relative in family.modules.items():
                module = block.get_submodule(relative)
                address = f"{path}.{layer}.{relative}"
                parts = family.fused.get(name, ())
                book.add(layer, name, module, address, parts, part_rows(config, len(parts)))
            size = head_size(config)
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
        fired.sort(key=lambda m: self._firings[id(self._addresses[Tap(m.layer, m.name, "out")].module)].order)
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
            return Batch(
                inputs={"input_ids": torch.zeros(1, 4, dtype=torch.long, device=self.device)}, labels=None, scored=None
            )
        raise InputError(
            f"{type(self.model).__name__} is not a token model that this library knows, so it needs an example of its "
            "input: al.adapt(model, example=torch.zeros(1, 3, 32, 32))"
        )

    def _token_model(self) -> bool:
        return getattr(getattr(self.model, "config", None), "vocab_size", None) is not None

    def _dry_forward(self, example: Batch) -> dict[int, Firing]:
        firings: dict[int, Firing] = {}

        def record(module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            before = firings.get(id(module))
            if before is None:
                firings[id(module)] = Firing(len(firings), 1, tensor.ndim)
            else:
                firings[id(module)] = Firing(before.order, before.calls + 1, before.axes)

        watched = {id(address.module): address.module for address in self._addresses.values()}
        with ExitStack() as stack, torch.no_grad():
            for module in watched.values():
                stack.callback(module.register_forward_hook(record).remove)
            self.run(example)
        return firings

    def _fires(self, tap: Tap) -> bool:
        address = self._addresses.get(tap)
        return address is not None and id(address.module) in self._firings

    def has(self, tap: Tap) -> bool:
        return self._fires(tap)

    def place(self, tap: Tap) -> Place:
        address = self._addresses.get(tap)
        if address is None:
            module = self.layout.module(tap.layer, tap.module)
            raise UnknownNameError(f"{type(self).__name__} has no activation {tap} of its own (module {module.name})")
        firing = self._firings.get(id(address.module))
        if firing is None:
            raise AdapterError(
                f"{address.name} ({tap}) never fires in a forward pass, so an ablation there would do nothing; "
                f"never fired: {', '.join(self.silent)}"
            )
        if firing.calls > 1 and not self.allow_repeated:
            raise AdapterError(
                f"{address.name} is called {firing.calls} times in one forward pass, and a component is one use of a "
                "weight; to ablate all its calls together: al.adapt(model, ..., allow_repeated=True)"
            )
        return Place(
            address=address.name,
            module=address.module,
            hook=address.hook,
            features=address.features,
            size=address.size,
            order=firing.order,
            feature_axis=address.feature_axis,
            axes=firing.axes,
            fresh=tap.side == "out",
            holders=(address.module, address.owner),
        )

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
        """Logits of the model: the only line that knows what a Hugging Face model takes and returns."""
        inputs = dict(batch.inputs)
        first = [inputs.pop("input")] if "input" in inputs else []
        if "input_ids" in inputs and "input_ids" not in self._accepted:
            first = [inputs.pop("input_ids")]
        if "use_cache" in self._accepted:
            inputs["use_cache"] = cast(Any, False)
        output = self.model(*first, **{k: v for k, v in inputs.items() if k != "position_ids" or k in self._accepted})
        return first_tensor(getattr(output, "logits", getattr(output, "last_hidden_state", output)))

    @property
    def context(self) -> int | None:
        """Positions that the model takes at most, if it says so."""
        config = getattr(self.model, "config", None)
        sizes = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
        return next((int(size) for size in sizes if isinstance(size, int) and size > 0), None)

    def run(self, batch: Batch, edits: Sequence[Placed] = ()) -> Tensor:
        if batch.length is not None and self.context is not None and batch.length > self.context:
            raise InputError(
                f"inputs of {batch.length} positions do not fit into the model's context of {self.context}; "
                f"cut them, for example tokens[:, :{self.context}]"
            )
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            if torch.is_grad_enabled():
                stack.enter_context(frozen(self.model))
            fired = self._install(edits, stack)
            logits = self.forward(batch)
        missed = [address for address, done in fired.items() if not done]
        if missed:
            raise AdapterError(
                f"these sites did not fire in this forward pass, so their ablation did nothing: {missed}"
            )
        return logits

    def _install(self, edits: Sequence[Placed], stack: ExitStack) -> dict[str, bool]:
        """Hook every edit; the stack takes the hooks off again."""
        groups: dict[tuple[int, Side], list[Placed]] = {}
        reads: dict[tuple[int, Side], Place] = {}
        for placed in edits:
            groups.setdefault(placed.write.key, []).append(placed)
            if placed.read is not None:
                reads.setdefault(placed.read.key, placed.read)
        seen: dict[tuple[int, Side], Tensor] = {}
        fired: dict[str, bool] = {}
        for group in groups.values():  # first, so that a read sees what the edits of its own activation leave
            stack.callback(self._hook_edit(group, seen, fired).remove)
        for key, place in reads.items():
            stack.callback(_hook(place, _keep(seen, key)).remove)
        return fired

    def _hook_edit(
        self, group: Sequence[Placed], seen: dict[tuple[int, Side], Tensor], fired: dict[str, bool]
    ) -> RemovableHandle:
        place = group[0].write
        name = f"{place.address}.{place.hook}"
        fired[name] = False
        kept = any(holder._forward_hooks for holder in place.holders)
        may_edit_in_place = place.fresh and not kept

        def edit(activation: Tensor) -> Tensor:
            fired[name] = True
            for placed in group:
                match placed.edit:
                    case Lerp() as one:
                        graph = activation.requires_grad or one.off.requires_grad or one.stand_in.requires_grad
                        activation = lerp(activation, one, in_place=may_edit_in_place and not graph)
                    case LowRank() as one:
                        assert placed.read is not None
                        activation = low_rank(activation, seen[placed.read.key], one)
            return activation

        return _hook(place, edit)

    def read(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        places = {tap: self.place(tap) for tap in taps}
        seen: dict[tuple[int, Side], Tensor] = {}
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(evaluating(self.model))
            for place in {place.key: place for place in places.values()}.values():
                stack.callback(_hook(place, _keep(seen, place.key)).remove)
            self.forward(batch)
        return {
            tap: seen[place.key].movedim(place.feature_axis, -1)[..., place.features].movedim(-1, place.feature_axis)
            for tap, place in places.items()
        }

    # -- provenance -----------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "class": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "fingerprint": fingerprint(self.model),
        }


class AddressBook:
    """Collects modules in canonical order, with the addresses of their taps."""

    def __init__(self) -> None:
        self.modules: list[Module] = []
        self.addresses: dict[Tap, Address] = {}
        self.stored: dict[tuple[int, str], tuple[nn.Module, slice]] = {}

    def add(
        self,
        layer: int,
        name: str,
        module: nn.Module,
        address: str,
        parts: Sequence[str] = (),
        sizes: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        """Note a module, and the projections that it holds if it is fused."""
        how = orientation.orientation(module)
        if how is None:
            raise AdapterError(f"{address} is a {type(module).__name__}, which has no matrix that can be cut")
        self.modules.append(Module(layer, name, how.rows, how.columns, how.operation, parts=tuple(parts)))
        self.stored[layer, name] = (module, slice(0, how.rows))
        self.addresses[Tap(layer, name, "in")] = Address(
            address, module, "in", slice(0, how.columns), how.columns, how.feature_axis, module
        )
        self.addresses[Tap(layer, name, "out")] = Address(
            address, module, "out", slice(0, how.rows), how.rows, how.feature_axis, module
        )
        start = 0
        for part, rows in zip(parts, sizes(how.rows) if sizes else (), strict=True):
            own = slice(start, start + rows)
            self.modules.append(Module(layer, part, rows, how.columns, part_of=name))
            self.stored[layer, part] = (module, own)
            self.addresses[Tap(layer, part, "out")] = Address(
                address, module, "out", own, how.rows, how.feature_axis, module
            )
            start += rows

    def columns(self, layer: int, name: str) -> int:
        stored, _ = self.stored[layer, name]
        how = orientation.orientation(stored)
        assert how is not None
        return how.columns


def part_rows(config: Any, parts: int) -> Callable[[int], Sequence[int]]:
    """Rows of each projection in a fused matrix: equal shares, which is what the fused families of the table have."""

    def sizes(rows: int) -> Sequence[int]:
        if parts and rows % parts:
            raise AdapterError(f"a fused matrix of {rows} rows does not split into {parts} equal projections")
        return [rows // parts] * parts if parts else []

    return sizes


def head_size(config: Any) -> int:
    """d_head of a Hugging Face configuration."""
    explicit = getattr(config, "head_dim", None)
    return int(explicit) if explicit else int(config.hidden_size // config.num_attention_heads)


def refuse_compiled(model: nn.Module) -> None:
    """Hooks added to a compiled model after its first call do nothing, silently.

    Raises:
        AdapterError: if the model, or a module in it, is compiled.
    """
    original = getattr(model, "_orig_mod", None)
    if isinstance(original, nn.Module):
        raise AdapterError("the model is compiled, and hooks on it would be ignored: al.adapt(model._orig_mod)")
    for name, module in model.named_modules():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if compiled or isinstance(getattr(module, "_orig_mod", None), nn.Module):
            raise AdapterError(
                f"module '{name or 'model'}' is compiled, and hooks on it would be ignored; "
                "adapt the model before it is compiled, for example copy.deepcopy(model) taken before .compile()"
            )


def accepted_arguments(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that the model's forward takes."""
    return frozenset(inspect.signature(model.forward).parameters)


def first_tensor(value: Any) -> Tensor:
    """The tensor in a module's output: itself, or the first of a tuple."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        return value[0]
    raise AdapterError(f"expected a tensor, or a tuple that starts with one; got {type(value).__name__}")


def fingerprint(model: nn.Module) -> str:
    """sha256 over names, shapes, dtypes and evenly spaced values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // FINGERPRINT_SAMPLES)
        digest.update(flat[::step].cpu().contiguous().view(torch.uint8).numpy().tobytes())
        if tensor.is_floating_point() and flat.numel():
            digest.update(str(float(flat.double().sum())).encode())
    return digest.hexdigest()


@contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Eval mode for the duration: every module's own flag comes back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """No gradients for parameters for the duration: the graph is that of masks and replacements alone."""
    thawed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in thawed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)


def _hook(place: Place, change: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Pass the activation at a place through `change`; None leaves it as it is."""
    if place.hook == "out":

        def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return change(output)
            changed = change(first_tensor(output))
            return None if changed is None else type(output)((changed, *output[1:]))

        return place.module.register_forward_hook(after)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = change(first_tensor(args[0]))
            return None if changed is None else ((changed, *args[1:]), kwargs)
        name = next(iter(kwargs))
        changed = change(first_tensor(kwargs[name]))
        return None if changed is None else (args, {**kwargs, name: changed})

    return place.module.register_forward_pre_hook(before, with_kwargs=True)


def _keep(seen: dict[tuple[int, Side], Tensor], key: tuple[int, Side]) -> Callable[[Tensor], None]:
    def keep(activation: Tensor) -> None:
        seen[key] = activation

    return keep
