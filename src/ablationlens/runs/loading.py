"""Open the model that a configuration names: bundled, in a directory, or on the hub. Never code.

Weights are read from safetensors files alone. Pickled ones (pytorch_model.bin) are refused, because to unpickle a file
is to run what it says; so are models that bring code of their own. Where the hub cannot be reached, what is on this
machine is enough, and a model that is not says so at once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ablationlens import zoo
from ablationlens.adapters.configuration import positions_of
from ablationlens.errors import ConfigError
from ablationlens.runs.config import ModelConfig
from ablationlens.runs.paths import PATH_SIGNS
from ablationlens.zoo.loader import NAMES

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""Files that hold the weights of a model, or say which shards do."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
HUB_SECONDS = 5
"""How long the hub may take to answer before it counts as out of reach."""
LOAD_ERRORS = (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError, TypeError, SafetensorError)
"""What the host libraries raise for a model that they cannot find, read or understand."""


@dataclass(frozen=True)
class Opened:
    """A model as its host holds it, and the tokenizer that goes with it.

    Attributes:
        model: a Hugging Face model, a TransformerBridge, or an nnsight model.
        tokenizer: a Hugging Face tokenizer, with a token to pad with; None if there is none.
        context: the most tokens that the model reads at once, if it says.
        no_tokenizer: why there is no tokenizer, where there is none.
    """

    model: Any
    tokenizer: Any
    context: int | None
    no_tokenizer: str = ""


def open_model(config: ModelConfig) -> Opened:
    """Load a bundled model, a Hugging Face directory, or a model of the hub (first from this machine's cache).

    Raises:
        ConfigError: if there is no such model, or it cannot be loaded as asked.
    """
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device: should be cpu, or auto: there is no CUDA device here")
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.name in NAMES:
        opened = _from_directory(zoo.load(config.name).path, config)
    elif Path(config.name).is_dir():
        opened = _from_directory(Path(config.name), config)
    elif config.name.startswith(PATH_SIGNS):
        raise ConfigError(f"model.name: there is no directory {config.name}")
    else:
        opened = _from_hub(config)
    opened.model.to(device).eval()
    match config.host:
        case "transformer_lens":
            return _on_bridge(opened, config, device)
        case "nnsight":
            return _in_nnsight(opened)
        case "torch":
            return opened


# --- files ------------------------------------------------------------------------------------------------------------


def _from_directory(path: Path, config: ModelConfig) -> Opened:
    _check_directory(path)
    return _from_files(str(path), config)


def _check_directory(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ConfigError(f"model.name: {path} is no Hugging Face model: it has no config.json")
    if any((path / name).is_file() for name in WEIGHTS):
        return
    others = sorted(file.name for file in path.glob("*.safetensors"))
    if others:
        raise ConfigError(
            f"model.name: {path} holds {others[0]}, but neither {WEIGHTS[0]} nor {WEIGHTS[1]}, which says what is in "
            "which shard; save the model again with model.save_pretrained(folder)"
        )
    pickled = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickled:
        raise ConfigError(
            f"model.name: {path} holds pickled weights only ({pickled[0]}), which are never loaded, because a pickle "
            "can run code; save the model again with model.save_pretrained(folder), which writes safetensors"
        )
    raise ConfigError(f"model.name: {path} holds no weights: expected {WEIGHTS[0]}, or shards with {WEIGHTS[1]}")


def _from_files(source: str, config: ModelConfig, *, local: bool = True) -> Opened:
    """Model and tokenizer from Hugging Face files: a directory, the cache, or (not `local`) the hub.

    Raises:
        ConfigError: if the model cannot be read. A tokenizer that cannot be is told when texts need one.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, config.dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, dtype=dtype, **_rules(local))
    except LOAD_ERRORS as error:
        raise ConfigError(f"model.name: {config.name} cannot be loaded: {_why(error, config.name)}") from error
    opened = Opened(model, None, positions_of(model))
    return _with_tokenizer(opened, source, config.name, local=local)


def _rules(local: bool) -> dict[str, Any]:
    return {"local_files_only": local, "trust_remote_code": False}


def _with_tokenizer(opened: Opened, source: str, name: str, *, local: bool) -> Opened:
    """With the tokenizer of the same files, if they hold one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_rules(local))
    except LOAD_ERRORS as error:
        return replace(opened, no_tokenizer=f"no tokenizer of {name} can be loaded: {_why(error, name)}")
    # Some classes are content without files, and then know no token but the special ones.
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        return replace(opened, no_tokenizer=f"{name} holds no tokenizer (tokenizer.json and tokenizer_config.json)")
    if tokenizer.pad_token_id is None:  # any token will do: padding is neither attended nor scored
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return replace(opened, tokenizer=tokenizer)


# --- the hub ----------------------------------------------------------------------------------------------------------


def _from_hub(config: ModelConfig) -> Opened:
    cached, failure = None, ""
    try:
        cached = _from_files(config.name, config)  # from the cache: no network, and no waiting for one
    except ConfigError as error:
        failure = str(error).removeprefix(f"model.name: {config.name} ")
    if cached is not None and cached.tokenizer is not None:
        return cached
    away = _unreachable(config.name)
    if away is None:
        if cached is None:
            return _from_files(config.name, config, local=False)
        return _with_tokenizer(cached, config.name, config.name, local=False)
    if cached is not None:  # weights without a tokenizer, which token ids do not need
        return replace(cached, no_tokenizer=f"the local Hugging Face cache holds none of {config.name}, and {away}")
    if _is_cached(config.name):
        raise ConfigError(
            f"model.name: '{config.name}' is in the local Hugging Face cache only in part ({failure}), and {away}"
        )
    raise ConfigError(
        f"model.name: '{config.name}' is no bundled model ({', '.join(NAMES)}), no directory and not in the local "
        f"Hugging Face cache, and {away}"
    )


def _is_cached(name: str) -> bool:
    """Whether the cache of this machine holds anything of a model."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def _unreachable(name: str) -> str | None:
    """Why a model cannot come from the hub, asked once: a download would try for minutes."""
    from huggingface_hub import model_info
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        model_info(name, timeout=HUB_SECONDS)
    except HFValidationError:
        return "that is no name of a model on the hub either"
    except RepositoryNotFoundError:
        return "the hub has no such model, or does not show it to you"
    except OfflineModeIsEnabled:
        return "the hub is not asked, because HF_HUB_OFFLINE is set"
    except Exception as error:  # the network's errors: their classes are another in each version of the client
        return f"the hub cannot be reached ({_first_line(error)})"
    return None


# --- hosts ------------------------------------------------------------------------------------------------------------


def _on_bridge(opened: Opened, config: ModelConfig, device: str) -> Opened:
    """The model in a TransformerBridge, its weights as they are."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    if opened.tokenizer is None:  # it would look for one on the hub
        raise ConfigError(f"model.host: TransformerLens needs a tokenizer, and {opened.no_tokenizer}; try host: torch")
    try:
        bridge = TransformerBridge.boot_transformers(
            str(opened.model.config._name_or_path or config.name),
            hf_model=opened.model,
            tokenizer=copy.deepcopy(opened.tokenizer),  # it sets tokens of its own
            device=device,
            dtype=getattr(torch, config.dtype),
        )
    except LOAD_ERRORS as error:
        raise ConfigError(
            f"model.host: TransformerLens cannot hold {config.name} ({_first_line(error)}); try host: torch"
        ) from error
    return replace(opened, model=bridge.eval())


def _in_nnsight(opened: Opened) -> Opened:
    """The model in nnsight, which leaves it as it is."""
    import nnsight

    if opened.tokenizer is None:
        return replace(opened, model=nnsight.NNsight(opened.model))
    tokenizer = copy.deepcopy(opened.tokenizer)  # it changes the side that is padded
    return replace(opened, model=nnsight.TransformersModel(opened.model, tokenizer=tokenizer))


# --- messages ---------------------------------------------------------------------------------------------------------


def _why(error: BaseException, name: str) -> str:
    """What went wrong, in one line."""
    from huggingface_hub.errors import GatedRepoError

    if any(isinstance(one, GatedRepoError) for one in _chain(error)):
        return (
            "the hub gives it only to those who have accepted its terms: accept them at "
            f"https://huggingface.co/{name}, then type: hf auth login"
        )
    return _first_line(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__
