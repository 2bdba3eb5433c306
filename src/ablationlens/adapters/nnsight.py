"""NNsightAdapter: an nnsight model, edited inside one trace for each forward pass."""

from __future__ import annotations

import copy
import gc
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablationlens.adapters.architectures import Architecture
from ablationlens.adapters.base import Place, Placed, Run
from ablationlens.adapters.hooking import may_overwrite
from ablationlens.adapters.nnsight_body import Group, run_trace
from ablationlens.adapters.patterns import forming, hook_patterns
from ablationlens.adapters.state import alone, evaluating, frozen
from ablationlens.adapters.torch_module import LOGITS, TorchAdapter, remove
from ablationlens.adapters.watch import Watch
from ablationlens.data import Batch
from ablationlens.edits import Coded, Edit, Lerp, LowRank
from ablationlens.errors import AdapterError


class NNsightAdapter(TorchAdapter):
    """Adapter for `nnsight.NNsight(module)` and `nnsight.TransformersModel`, nnsight 0.8 or later.

    Each forward pass is one trace, whose body reads and writes the sites in the order in which the model reaches
    them, whatever the order of the registry: nnsight refuses any other. Masks are tensors with one row for each row
    of the batch, so many ablations share a pass. The body holds only torch, path strings and tensors; with
    ``remote=True`` nnsight ships it to its server as it is.

    What sees what: edits that were registered with ``model.edit()`` run first and are seen by ours, which read what
    they leave. nnsight acts before a module's own PyTorch hooks, so such a hook sees, and may change, what our edit
    wrote. Calls inside a ``with model.session():`` of the user's run as they do outside; inside a trace they are
    refused, because the model is running already.

    Args:
        model: the nnsight model; `edit`ed copies keep their edits.
        example: an input for the dry forward; token models need none.
        architecture: where the logical modules of a model outside the table are.
        allow_repeated: ablate every call of a module that one forward pass calls more than once.
        remote: run passes on nnsight's server (True, or its address), or serialise, deserialise and run them here
            ("local"), which shows that they could run there.

    Raises:
        AdapterError: if the model is compiled, or has nothing to cut, or cannot run remotely.
    """

    host = "nnsight"
    hosts = ("nnsight", "torch")

    def __init__(
        self,
        model: Any,
        example: Any = None,
        *,
        architecture: Architecture | None = None,
        allow_repeated: bool = False,
        remote: bool | str = False,
    ) -> None:
        self.envoy = model
        self.remote = remote
        if remote and not hasattr(model, "to_model_key"):
            raise AdapterError(
                f"{type(model).__name__} cannot run remotely: the server knows models by their name on the hub. "
                "Load it as nnsight.TransformersModel('owner/name'), or leave out remote="
            )
        if remote not in (False, True, "local") and "://" not in str(remote):
            raise AdapterError(f"remote is True, 'local' or the address of a server, 'https://...'; got {remote!r}")
        if remote and remote != "local" and not getattr(model, "repo_id", None):
            raise AdapterError(
                "the server knows models by their name on the hub, and this one was made from a module here: "
                "nnsight.TransformersModel('owner/name'), or try the round trip here with remote='local'"
            )
        if not remote and getattr(model, "dispatched", True) is False:
            model.dispatch()  # a model that is loaded on first use: this is its first use
        super().__init__(model._module, example, architecture=architecture, allow_repeated=allow_repeated)

    def __deepcopy__(self, memo: dict[int, Any]) -> NNsightAdapter:
        own = object.__new__(type(self))
        memo[id(self)] = own
        vars(own).update(copy.deepcopy(vars(self), memo))
        own.envoy.interleaver.envoys = {}
        own.envoy._update(own.envoy._module)  # what nnsight put into the copied modules still served the original
        return own

    def _names(self) -> dict[nn.Module, str]:
        """Path of each module as nnsight takes it; a module called `output` or `input` has another name there."""
        if self._envoy_names is None:
            self._envoy_names = dict(_walk(self.envoy, ""))
        return self._envoy_names

    _envoy_names: dict[nn.Module, str] | None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.remote else super().device

    def weight(self, layer: int, module: str) -> Tensor:
        return self._here(super().weight(layer, module), layer, module)

    def bias(self, layer: int, module: str) -> Tensor | None:
        value = super().bias(layer, module)
        return None if value is None else self._here(value, layer, module)

    def _here(self, value: Tensor, layer: int, module: str) -> Tensor:
        if self.remote and value.is_meta:
            raise AdapterError(
                f"the weight and bias of L{layer}.{module} are not on this machine, and this ablation needs them: "
                "load them too, nnsight.TransformersModel(name, dispatch=True), or ablate with "
                "al.Zero(include_bias=True)"
            )
        return value.to(self.device)

    # -- running --------------------------------------------------------------------------------------------------

    def _run_dry(self, example: Batch) -> None:
        if self.remote:
            with TorchAdapter.session(self) as run:  # here, on whatever device the weights are, also on none
                run(example)
        else:
            self.run(example)

    @contextmanager
    def session(self, watch: Watch | None = None) -> Generator[Run]:
        watch = Watch() if watch is None else watch
        if self.remote and watch.patterns:
            raise AdapterError("attention patterns are read on this machine: adapt the model without remote=")
        places = {tap: self.place(tap) for tap in watch.activations}
        examples = 0

        def run(batch: Batch, edits: Sequence[Placed] = ()) -> Tensor:
            nonlocal examples
            examples = len(batch)
            self._check_length(batch)
            with watch.one_pass():
                logits, seen = self._trace(batch, self._groups(batch, edits, places.values()), keep=bool(places))
                for tap, place in places.items():
                    watch.note(tap, place.take(seen[self._key(place)]))
            gc.collect(0)  # a trace leaves circles that hold masks and logits: free them while they are few
            return logits

        building = frozen(self.model) if torch.is_grad_enabled() else nullcontext()
        with alone(self.model):
            self._refuse_nesting()
            with evaluating(self._modules), building, forming(watch, self._called()):
                handles: list[RemovableHandle] = []
                try:
                    hook_patterns(self, watch, lambda: examples, handles)
                    yield run
                finally:
                    remove(handles)

    def _refuse_nesting(self) -> None:
        if self.envoy.interleaver.interleaving:
            raise AdapterError(
                "this model is running already: call the library outside the 'with model.trace(...)' block, and "
                "register interventions of your own with model.edit()"
            )

    def _trace(self, batch: Batch, groups: list[Group], *, keep: bool) -> tuple[Tensor, dict[str, Tensor]]:
        from nnsight.intervention.interleaver import OutOfOrderError

        if self.remote and any(edit[0] == "coded" for group in groups for edit in group[3]):
            raise AdapterError(
                "a basis of your own runs on this machine only: its encode and decode are not on the server. "
                "Adapt the model without remote=, or ablate features of the activation, without basis="
            )
        if self.remote and torch.is_grad_enabled() and any(_requires_grad(group) for group in groups):
            raise AdapterError(
                "gradients do not come back from a remote run: use values, such as model.sweep(...), al.coar or "
                "al.leave_one_out, or adapt the model without remote="
            )
        first, named = self.arguments(batch)
        options: dict[str, Any] = {"remote": self.remote} if self.remote else {}
        try:
            return run_trace(self.envoy, first, {**named, **options}, len(batch), groups, LOGITS, keep)
        except OutOfOrderError as error:
            names = ", ".join(f"{path}.{side}put" for path, side, *_ in groups)
            raise AdapterError(
                f"a site did not fire in this forward pass, so its ablation did nothing ({error}); sites: {names}"
            ) from error

    def _key(self, place: Place) -> str:
        return f"{self._names()[place.module]}.{place.hook}"

    def _groups(self, batch: Batch, edits: Sequence[Placed] = (), reads: Iterable[Place] = ()) -> list[Group]:
        """What the body of a trace does at each input and output that it needs, in the order of the forward pass."""
        at: dict[str, Place] = {}
        plain: dict[str, list[Any]] = {}
        copied: dict[str, bool] = {}
        for placed in edits:
            read = None
            if placed.read is not None:
                read = self._key(placed.read)
                at.setdefault(read, placed.read)
                # other modules run between what a basis reads and what it writes, and may overwrite it
                copied[read] = copied.get(read, False) or isinstance(placed.edit, Coded)
            write = self._key(placed.write)
            at[write] = placed.write
            plain.setdefault(write, []).append(_plain(placed.edit, read))
        for place in reads:
            at[self._key(place)] = place
            copied[self._key(place)] = True
        calls = [
            (rank, number, key)
            for key, place in at.items()
            for number, rank in enumerate(self._firings[place.module, place.hook].ranks)
        ]
        return [
            (
                self._names()[at[key].module],
                at[key].hook,
                number,
                plain.get(key, []),
                key if key in copied else None,
                copied.get(key, False),
                self._in_place(at[key]),
                at[key].folded and (batch.length or at[key].folded),
            )
            for _, number, key in sorted(calls)
        ]

    def _in_place(self, place: Place) -> bool:
        return may_overwrite(place) and not self.envoy._edits and not torch.is_grad_enabled()

    @property
    def version(self) -> int:
        return hash((super().version, tuple(id(edit) for edit in self.envoy._edits)))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "edits": len(self.envoy._edits)}


def _plain(edit: Edit, read: str | None) -> tuple[Any, ...]:
    """An edit as a plain tuple, which travels without this library."""
    match edit:
        case Lerp():
            return ("lerp", None, *edit)
        case LowRank():
            return ("low_rank", read, *edit)
        case Coded():
            return ("coded", read, *edit)


def _requires_grad(group: Group) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for edit in group[3] for value in edit)


def _walk(envoy: Any, path: str) -> Generator[tuple[nn.Module, str]]:
    """Modules under an envoy with the names by which nnsight reaches them, each once."""
    for name, child in envoy._child_map.items():
        attribute = name if envoy.__dict__.get(name) is child else f"{envoy.OVERLOAD_PREFIX}{name}"
        own = f"{path}.{attribute}" if path else attribute
        yield from _walk(child, own)
        yield cast(nn.Module, child._module), own
