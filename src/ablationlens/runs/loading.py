"""Open what a configuration names: a model by name or directory, texts from a domain or a file. Never code.

Weights are read from safetensors files alone. Pickled ones (pytorch_model.bin) are refused, because to unpickle a file
is to run what it says; so are models that bring code of their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ablationlens import zoo
from ablationlens.data import Batch, batch
from ablationlens.errors import ConfigError
from ablationlens.runs.config import PATH_SIGNS, DataConfig, ModelConfig
from ablationlens.zoo.loader import NAMES

DOMAIN_COUNT = 8
"""Texts of a domain, unless the configuration says how many."""
DOMAIN_TOKENS = 32
"""Their length."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
LOAD_ERRORS = (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What the host libraries raise for a model that they cannot find, read or understand."""


@dataclass(frozen=True)
class Opened:
    """A model as its host holds it, and the tokenizer that goes with it.

    Attributes:
        model: a Hugging Face model, or a TransformerBridge.
        tokenizer: a Hugging Face tokenizer.
        context: the most tokens that the model reads at once, if it says.
    """

    model: Any
    tokenizer: Any
    context: int | None


def open_model(config: ModelConfig) -> Opened:
    """Load a bundled model, a Hugging Face directory, or a model of the hub (first from this machine's cache).

    Raises:
        ConfigError: if there is no such model, or it cannot be loaded as asked.
    """
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device: should be cpu: there is no CUDA device here")
    if config.name in NAMES:
        source, local = str(zoo.load(config.name).path), True
    elif Path(config.name).is_dir():
        source, local = config.name, True
    elif config.name.startswith(PATH_SIGNS):
        raise ConfigError(f"model.name: there is no directory {config.name}")
    else:
        source, local = config.name, False
    if local:
        _check_directory(Path(source))
    opened = _from_files(source, config) if local else _from_hub(config)
    opened.model.to(config.device).eval()
    return _on_bridge(opened, config) if config.host == "transformer_lens" else opened


def _check_directory(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ConfigError(f"model.name: {path} is no Hugging Face model: it has no config.json")
    if any(path.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in PICKLES for file in path.glob(pattern))
    if pickled:
        raise ConfigError(
            f"model.name: {path} holds pickled weights only ({pickled[0]}), which are never loaded, because a pickle "
            "can run code; save the model again with model.save_pretrained(folder), which writes safetensors"
        )
    raise ConfigError(f"model.name: {path} holds no weights: expected *.safetensors")


def _from_files(source: str, config: ModelConfig, *, local: bool = True) -> Opened:
    """Model and tokenizer from Hugging Face files.

    Raises:
        ConfigError: if they cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rules: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    try:
        dtype = getattr(torch, config.dtype)
        model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, dtype=dtype, **rules)
        tokenizer = AutoTokenizer.from_pretrained(source, **rules)
    except LOAD_ERRORS as error:
        raise ConfigError(f"model.name: {config.name} cannot be loaded: {_first_line(error)}") from error
    context = getattr(model.config, "max_position_embeddings", None)
    return Opened(model, tokenizer, context if isinstance(context, int) else None)


def _from_hub(config: ModelConfig) -> Opened:
    try:
        return _from_files(config.name, config)  # from the cache: no network, and no waiting for one
    except ConfigError:
        pass
    why = _unreachable(config.name)
    if why is not None:
        raise ConfigError(
            f"model.name: '{config.name}' is no bundled model ({', '.join(NAMES)}), no directory and not in the local "
            f"Hugging Face cache, and {why}"
        )
    return _from_files(config.name, config, local=False)


def _unreachable(name: str) -> str | None:
    """Why a model cannot come from the hub, asked once: a download would try for most of a minute."""
    from huggingface_hub import model_info
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        model_info(name, timeout=10)
    except HFValidationError:
        return "that is no name of a model on the hub either"
    except RepositoryNotFoundError:
        return "the hub has no such model, or does not show it to you"
    except Exception as error:  # the network's errors: their classes are another in each version of the client
        return f"the hub cannot be reached ({_first_line(error)})"
    return None


def _on_bridge(opened: Opened, config: ModelConfig) -> Opened:
    """The model in a TransformerBridge, its weights as they are."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    try:
        bridge = TransformerBridge.boot_transformers(
            str(opened.model.config._name_or_path or config.name),
            hf_model=opened.model,
            tokenizer=opened.tokenizer,
            device=config.device,
            dtype=getattr(torch, config.dtype),
        )
    except LOAD_ERRORS as error:
        raise ConfigError(
            f"model.host: TransformerLens cannot hold {config.name} ({_first_line(error)}); try host: torch"
        ) from error
    return replace(opened, model=bridge.eval())


# --- texts ------------------------------------------------------------------------------------------------------------


def open_data(config: DataConfig, opened: Opened, field: str = "data") -> Batch:
    """The examples that a configuration names, tokenised.

    Args:
        config: which texts.
        opened: the model that will read them.
        field: name of the configuration's field, for messages.

    Raises:
        ConfigError: if a file cannot be read, or has too few texts, or too long ones.
    """
    if config.domain is not None:
        found = zoo.load("domains").texts(config.domain, tokens=config.tokens or DOMAIN_TOKENS)
        count = config.count or DOMAIN_COUNT
    else:
        assert config.file is not None
        path = Path(config.file)
        found = read_lines(path, field) if config.field is None else read_jsonl(path, config.field, field)
        count = config.count or len(found)
    if count > len(found):
        raise ConfigError(f"{field}.count: {count} texts were asked for, and there are {len(found)}")
    data = batch(found[:count], tokenizer=opened.tokenizer, positions=config.positions)
    if opened.context is not None and data.length is not None and data.length > opened.context:
        raise ConfigError(
            f"{field}: the longest text has {data.length} tokens, and the model reads at most {opened.context}: cut it"
        )
    return data


def read_lines(path: Path, field: str) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        ConfigError: if it cannot be read, or has none.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"{field}.file: {path} cannot be read: {why}") from error
    if not lines:
        raise ConfigError(f"{field}.file: {path} holds no text: expected one on each line")
    return lines


def read_jsonl(path: Path, name: str, field: str) -> list[str]:
    """The text called `name` of each object in a file of JSON lines.

    Raises:
        ConfigError: if the file cannot be read, or a line of it is no object with that text.
    """
    texts: list[str] = []
    for number, line in enumerate(read_lines(path, field), 1):
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{field}.file: text {number} of {path} is no JSON: {error}") from error
        if not isinstance(item, dict) or not isinstance(item.get(name), str):
            came = f"an object with {', '.join(map(str, item))}" if isinstance(item, dict) else type(item).__name__
            raise ConfigError(
                f"{field}.field: text {number} of {path} should be an object with a text '{name}'; it is {came}"
            )
        texts.append(item[name])
    return texts


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__
