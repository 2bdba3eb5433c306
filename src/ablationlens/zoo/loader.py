"""Load a bundled model, its card, and the held-out texts or sequences to try it on."""

from __future__ import annotations

import json
import logging
import platform
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Int
from torch import Tensor

import ablationlens.zoo.corpus as corpus  # from the package itself it would be a cycle
from ablationlens.errors import AblationLensError, InputError, UnknownNameError
from ablationlens.zoo.copying import repeated_sequences
from ablationlens.zoo.texts import exact_texts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

NAMES: tuple[str, ...] = ("domains", "induction")
"""The models that are bundled."""

_WEIGHTS = Path(__file__).parent / "weights"


def load(name: str) -> ZooModel:
    """Open a bundled model; nothing is read until it is used.

    Args:
        name: ``"domains"``, a GPT-2 trained on Python, C++, mathematics, prose and data; or ``"induction"``, a Llama
            with grouped-query attention that copies repeated sequences.

    Raises:
        UnknownNameError: if no bundled model has this name.
    """
    if name not in NAMES:
        raise UnknownNameError(f"no bundled model is called {name!r}. There are: {', '.join(NAMES)}")
    return ZooModel(name)


class ZooModel:
    """One bundled model.

    Attributes:
        name: Its name.
        path: The Hugging Face directory with its weights, configuration, tokenizer and card.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = _WEIGHTS / name

    def __repr__(self) -> str:
        return f"ZooModel({self.name!r})"

    @cached_property
    def card(self) -> dict[str, Any]:
        """What the model is: data, training, accuracy, licence. ``README.md`` in `path` says the same in words."""
        return json.loads((self.path / "card.json").read_text(encoding="utf-8"))

    @cached_property
    def model(self) -> PreTrainedModel:
        """The Hugging Face model, float32, in eval mode; the same object every time."""
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.path, local_files_only=True, dtype=torch.float32).eval()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which adds no special tokens. That of `induction` reads numbers: "5 17 3"."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.path, local_files_only=True)

    def bridge(self) -> TransformerBridge:
        """Boot a new TransformerBridge from the files; `model` stays as it is."""
        from transformer_lens import TransformerBridge

        # booting around `self.model` would change that model's modules in place
        return TransformerBridge.boot_transformers(str(self.path), device="cpu").eval()

    def texts(self, domain: str, tokens: int = 64) -> list[str]:
        """Texts that the model was not trained on, each exactly `tokens` tokens long, always in the same order.

        They are cut from source files that were held out whole and that the installed packages ship, so other versions
        of those packages give other texts; see `provenance`. About half a second.

        Args:
            domain: ``"python"``, ``"cpp"``, ``"maths"``, ``"prose"`` or ``"data"``.
            tokens: 8 to 128.

        Returns:
            At least 200 strings with the package versions that the card names; no more than 512.

        Raises:
            UnknownNameError: if the model knows no such domain.
            AblationLensError: if none of the domain's held-out files is installed.
        """
        from tokenizers import Tokenizer

        files, _ = self._held_out(domain)
        texts = exact_texts(files, Tokenizer.from_file(str(self.path / "tokenizer.json")), tokens)
        if not texts:
            raise AblationLensError(
                f"the held-out files of {domain!r} that are installed hold no text of {tokens} tokens; they are "
                f"{', '.join(name for name, _ in files)}"
            )
        return texts

    def provenance(self, domain: str) -> dict[str, Any]:
        """Where `texts` come from: a sha256 over the source files, each file's own, and the package versions.

        ``as_in_card`` says whether they are the very files that the losses in the card were measured on.
        """
        files, missing = self._held_out(domain)
        sha256 = corpus.digest(files)
        packages = sorted({corpus.distribution_of(name) for name, _ in files} - {"python"})
        return {
            "model": self.name,
            "domain": domain,
            "sha256": sha256,
            "as_in_card": sha256 == self.card["data"][domain]["held_out_sha256"],
            "files": {name: corpus.digest([(name, text)]) for name, text in files},
            "missing": missing,
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        }

    def sequences(self, n: int, length: int, seed: int = 0) -> Int[Tensor, "n twice_length"]:
        """Random sequences of `length` tokens, each repeated once, for the model `induction`: [n, 2 * length].

        Raises:
            InputError: if this is another model, or the sequences are longer than its context.
        """
        if self.name != "induction":
            raise InputError(f"the model {self.name!r} copies no sequences; load('induction') does")
        shape = self.card["architecture"]
        if 2 * length > shape["context"]:
            raise InputError(f"length must be at most {shape['context'] // 2}, half of the context, not {length}")
        return repeated_sequences(n, length, shape["vocabulary"], seed)

    def _held_out(self, domain: str) -> tuple[list[tuple[str, str]], list[str]]:
        """The held-out files that are installed, as (name, text), and the names of those that are not."""
        if self.name != "domains":
            raise InputError(f"the model {self.name!r} was trained on no texts; load('domains') was")
        if domain not in corpus.DOMAINS:
            raise UnknownNameError(f"no domain is called {domain!r}. There are: {', '.join(corpus.DOMAINS)}")
        names: list[str] = self.card["data"][domain]["held_out_files"]
        read = {name: corpus.read(name) for name in names}
        files = [(name, text) for name, text in read.items() if text is not None]
        missing = [name for name, text in read.items() if text is None]
        if not files:
            raise AblationLensError(
                f"none of the {len(names)} held-out source files of {domain!r} is installed; the first is {names[0]}"
            )
        if missing:
            log.info("%d of the %d held-out files of %r are not installed", len(missing), len(names), domain)
        return files, missing
