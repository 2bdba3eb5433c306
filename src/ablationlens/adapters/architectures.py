"""Where each logical module lives in the model families that we know: one table.

A model outside the table is still adapted, by the paths of its modules, without heads or neurons, unless it comes with
an `Architecture` of its own: `al.adapt(model, architecture=al.Architecture(...))`. `probe` proposes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeAlias

from torch import nn

from ablationlens.adapters.configuration import config_of
from ablationlens.errors import AdapterError, InputError
from ablationlens.layout import MODULE_ORDER, split_stack

Paths: TypeAlias = str | tuple[str, ...]
"""A path in the model, or several at which to look, the likeliest first."""

FUSED = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.gate_in": ("mlp.gate", "mlp.in")}
"""Fused matrices, and the projections that they hold in the order of their rows."""


@dataclass(frozen=True, repr=False)
class Architecture:
    """How a family of models names its modules. Its text is the Python that makes it.

    Attributes:
        layers: where the list of layers stands: a path, or several of which the first that exists counts. A model of
            several stacks of layers has a mapping from each stack's name to its paths.
        modules: logical name (see `layout.MODULE_ORDER`) -> path within a layer. In a model of several stacks names
            begin with the stack: ``encoder.attn.q``. A matrix that holds q, k and v together is ``attn.qkv``, one
            that holds the gate and the other entry of an MLP ``mlp.gate_in``.
        interleaved: whether the rows of ``attn.qkv`` run by key/value head: its queries, its key, its value, and then
            the next one's. Otherwise all queries come first, then all keys and all values.
        head_size: features of one head (d_head); None where the model's configuration says it.
        model_types: values of the Hugging Face `config.model_type`, for the families of the table.

    Raises:
        InputError: for a name that is no logical module, or a stack without layers.
    """

    layers: Paths | Mapping[str, Paths]
    modules: Mapping[str, str]
    interleaved: bool = False
    head_size: int | None = None
    model_types: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        stacks = self.stacks
        for name in self.modules:
            stack, local = split_stack(name)
            if stack not in stacks:
                named = "no stacks" if "" in stacks else f"the stacks {', '.join(stacks)}"
                raise InputError(f"module '{name}' names the stack '{stack}', and layers= has {named}")
            if local not in MODULE_ORDER:
                near = get_close_matches(local, MODULE_ORDER, n=3, cutoff=0.4)
                hint = f"did you mean {' or '.join(near)}? " if near else ""
                raise InputError(f"no logical module '{local}': {hint}They are {', '.join(MODULE_ORDER)}")
        if self.head_size is not None and self.head_size < 1:
            raise InputError(f"head_size={self.head_size}: it is the number of features of one head")

    def __repr__(self) -> str:
        layers = dict(self.layers) if isinstance(self.layers, Mapping) else self.layers
        lines = ["al.Architecture(", f"    layers={_quoted(layers)},", "    modules={"]
        lines += [f"        {_quoted(name)}: {_quoted(path)}," for name, path in self.modules.items()]
        lines += ["    },"]
        lines += ["    interleaved=True,"] if self.interleaved else []
        lines += [] if self.head_size is None else [f"    head_size={self.head_size},"]
        return "\n".join([*lines, ")"])

    @property
    def stacks(self) -> dict[str, tuple[str, ...]]:
        """Each stack of layers, and the paths at which it may stand; "" is the only stack of most models."""
        given = self.layers if isinstance(self.layers, Mapping) else {"": self.layers}
        return {name: (paths,) if isinstance(paths, str) else tuple(paths) for name, paths in given.items()}

    def of_stack(self, stack: str) -> dict[str, str]:
        """The modules of one stack: full logical name -> path within a layer, in canonical order."""
        own = [name for name in self.modules if split_stack(name)[0] == stack]
        own.sort(key=lambda name: MODULE_ORDER.index(split_stack(name)[1]))
        return {name: self.modules[name] for name in own}


def _quoted(value: Any) -> str:
    return repr(value).replace("'", '"')


# -- the table --------------------------------------------------------------------------------------------------------


def _attention(at: str, q: str, k: str, v: str, o: str) -> dict[str, str]:
    return {"attn.q": f"{at}.{q}", "attn.k": f"{at}.{k}", "attn.v": f"{at}.{v}", "attn.o": f"{at}.{o}"}


_LLAMA = {
    **_attention("self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp.gate": "mlp.gate_proj",
    "mlp.in": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
}
_BERT = {
    **_attention("attention", "self.query", "self.key", "self.value", "output.dense"),
    "mlp.in": "intermediate.dense",
    "mlp.out": "output.dense",
}
_NEOX = {
    "attn.qkv": "attention.query_key_value",
    "attn.o": "attention.dense",
    "mlp.in": "mlp.dense_h_to_4h",
    "mlp.out": "mlp.dense_4h_to_h",
}
_FALCON = {**_NEOX, "attn.qkv": "self_attention.query_key_value", "attn.o": "self_attention.dense"}
_CLIP = {
    **_attention("self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
    "mlp.in": "mlp.fc1",
    "mlp.out": "mlp.fc2",
}


def _t5(entries: Mapping[str, str]) -> dict[str, str]:
    """Both stacks of T5; `entries` says which matrices enter its MLP."""
    own = {name: f"layer.0.SelfAttention.{name[-1]}" for name in ("attn.q", "attn.k", "attn.v", "attn.o")}
    cross = {name: f"layer.1.EncDecAttention.{name[-1]}" for name in ("cross.q", "cross.k", "cross.v", "cross.o")}
    mlp = {**entries, "mlp.out": "wo"}
    encoder = {**own, **{name: f"layer.1.DenseReluDense.{path}" for name, path in mlp.items()}}
    decoder = {**own, **cross, **{name: f"layer.2.DenseReluDense.{path}" for name, path in mlp.items()}}
    return {
        **{f"encoder.{name}": path for name, path in encoder.items()},
        **{f"decoder.{name}": path for name, path in decoder.items()},
    }


LANGUAGE_MODEL = "language_model"
"""What models that also take images call the language model in them."""

_T5_TYPES = ("t5", "mt5", "umt5")
_T5_LAYERS = {"encoder": "encoder.block", "decoder": "decoder.block"}

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        model_types=("gpt2",),
        layers=("transformer.h", "h"),
        modules={"attn.qkv": "attn.c_attn", "attn.o": "attn.c_proj", "mlp.in": "mlp.c_fc", "mlp.out": "mlp.c_proj"},
    ),
    Architecture(
        model_types=("gpt_neox",),
        layers=("gpt_neox.layers", "layers"),
        modules=_NEOX,
        interleaved=True,
    ),
    Architecture(
        model_types=(
            *("llama", "mistral", "qwen2", "qwen3"),
            *("gemma", "gemma2", "gemma3", "gemma3_text"),
            *("olmo", "olmo2", "granite", "smollm3", "stablelm", "cohere"),
        ),
        layers=("model.layers", "layers", "model.language_model.layers", "language_model.layers"),
        modules=_LLAMA,
    ),
    Architecture(
        model_types=("phi",),
        layers=("model.layers", "layers"),
        modules={**_CLIP, "attn.o": "self_attn.dense"},
    ),
    Architecture(
        model_types=("phi3",),
        layers=("model.layers", "layers"),
        modules={
            "attn.qkv": "self_attn.qkv_proj",
            "attn.o": "self_attn.o_proj",
            "mlp.gate_in": "mlp.gate_up_proj",
            "mlp.out": "mlp.down_proj",
        },
    ),
    Architecture(
        model_types=("opt",),
        layers=("model.decoder.layers", "decoder.layers", "layers"),
        modules={**_CLIP, "mlp.in": "fc1", "mlp.out": "fc2"},
    ),
    Architecture(
        model_types=("falcon", "bloom"),
        layers=("transformer.h", "h"),
        modules=_FALCON,
        interleaved=True,
    ),
    Architecture(
        model_types=("gptj",),
        layers=("transformer.h", "h"),
        modules={
            **_attention("attn", "q_proj", "k_proj", "v_proj", "out_proj"),
            "mlp.in": "mlp.fc_in",
            "mlp.out": "mlp.fc_out",
        },
    ),
    Architecture(
        model_types=("bert", "roberta", "xlm-roberta", "camembert", "electra"),
        layers=("bert.encoder.layer", "roberta.encoder.layer", "electra.encoder.layer", "encoder.layer"),
        modules=_BERT,
    ),
    Architecture(
        model_types=("distilbert",),
        layers=("distilbert.transformer.layer", "transformer.layer"),
        modules={
            **_attention("attention", "q_lin", "k_lin", "v_lin", "out_lin"),
            "mlp.in": "ffn.lin1",
            "mlp.out": "ffn.lin2",
        },
    ),
    Architecture(
        model_types=("vit", "deit"),
        layers=("vit.layers", "deit.layers", "layers"),
        modules={**_CLIP, **_attention("attention", "q_proj", "k_proj", "v_proj", "o_proj")},
    ),
    Architecture(
        model_types=("clip_vision_model", "siglip_vision_model"),
        layers=("vision_model.encoder.layers", "encoder.layers"),
        modules=_CLIP,
    ),
    Architecture(
        model_types=("clip_text_model", "siglip_text_model"),
        layers=("text_model.encoder.layers", "encoder.layers"),
        modules=_CLIP,
    ),
    Architecture(
        model_types=_T5_TYPES,
        layers=_T5_LAYERS,
        modules=_t5({"mlp.gate": "wi_0", "mlp.in": "wi_1"}),  # wi_0 goes through the activation function
    ),
    Architecture(
        model_types=_T5_TYPES,
        layers=_T5_LAYERS,
        modules=_t5({"mlp.in": "wi"}),
    ),
)


# -- finding a model in it --------------------------------------------------------------------------------------------


def architecture_of(model: nn.Module) -> Architecture | None:
    """The family of a Hugging Face model, or None for a model outside the table.

    A model that wraps a language model of the table, so that it also takes images, is of that language model's family.
    """
    whole = getattr(getattr(model, "config", None), "model_type", None)
    text = getattr(config_of(model), "model_type", None)
    for family in ARCHITECTURES:
        paths = _paths_in(model, family) if {whole, text} & {*family.model_types} else ()
        if paths and (whole in family.model_types or all(LANGUAGE_MODEL in path.split(".") for path in paths)):
            return family
    return None


def _paths_in(model: nn.Module, family: Architecture) -> tuple[str, ...]:
    """Where the family's layers are in the model; none if the model does not have its modules."""
    try:
        stacks = layer_lists(model, family)
    except AdapterError:
        return ()
    blocks = [(stack, block) for stack, _, layers in stacks for block in layers]
    whole = all(_submodule(block, path) for stack, block in blocks for path in family.of_stack(stack).values())
    return tuple(path for _, path, _ in stacks) if whole else ()


def layer_lists(model: nn.Module, family: Architecture) -> list[tuple[str, str, list[nn.Module]]]:
    """The stacks of layers that a model of this family has: (name of the stack, path, layers).

    Raises:
        AdapterError: if it has none of them.
    """
    found: list[tuple[str, str, list[nn.Module]]] = []
    for stack, paths in family.stacks.items():
        for path in paths:
            layers = _submodule(model, path)
            if isinstance(layers, nn.ModuleList | nn.Sequential):
                found.append((stack, path, list(layers)))
                break
    if not found:
        looked = ", ".join(path for paths in family.stacks.values() for path in paths)
        lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
        raise AdapterError(
            f"{type(model).__name__} has no list of layers at {looked}; its lists of modules are "
            f"{', '.join(lists[:6]) or 'none'}"
        )
    return found


def module_at(layer: nn.Module, path: str, address: str) -> nn.Module:
    """The module of a path within a layer.

    Raises:
        AdapterError: if there is none, with the nearest paths.
    """
    module = _submodule(layer, path)
    if module is None:
        known = [name for name, own in layer.named_modules() if name and not list(own.children())]
        near = get_close_matches(path, known, n=3, cutoff=0.4) or known[:6]
        raise AdapterError(f"there is no module {address}: in this layer there are {', '.join(near)}")
    return module


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
