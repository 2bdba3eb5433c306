"""Train the bundled model `domains`: ``python -m ablationlens.zoo.train_domains --out DIR``.

A GPT-2 of 4 layers on text of five domains (see `ablationlens.zoo.corpus`), in equal shares. About half an hour on one
CPU core. Writes a Hugging Face directory, the counts of the unigram baseline, and the card.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ablationlens.zoo import corpus
from ablationlens.zoo.measure import held_out_losses, log_unigram
from ablationlens.zoo.saving import save_card, save_model, save_tokenizer
from ablationlens.zoo.texts import exact_texts
from ablationlens.zoo.training_line import parse

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GPT2LMHeadModel

log = logging.getLogger(__name__)

Splits: TypeAlias = Mapping[str, tuple[dict[str, str], dict[str, str]]]
"""Domain -> (training files, held-out files), each name -> text."""

END_OF_TEXT = "<|endoftext|>"
MEASURED_TOKENS = 64
"""The length of the texts that the card's losses are measured on, and that `ZooModel.texts` gives unless told."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is trained."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 256
    vocabulary: int = 2048
    tokenizer_characters: int = 1_500_000
    """How much of each domain's training text the tokenizer sees."""
    steps: int = 4000
    rows_per_domain: int = 4
    length: int = 128
    long_every: int = 4
    """Every so many steps the windows are twice as long and half as many, so that every position is trained."""
    end_of_text_share: float = 0.25
    """The share of windows that begin with the end-of-text token, which many tools put before a prompt."""
    learning_rate: float = 2.5e-3
    warmup: int = 200
    weight_decay: float = 0.1
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train, measure and save."""
    options = parse(
        "python -m ablationlens.zoo.train_domains", __doc__, arguments, steps=Recipe.steps, seed=Recipe.seed
    )
    train(Recipe(steps=options.steps, seed=options.seed), options.out)


def train(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train the model, write it and its card to `out`, and return the card."""
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    splits = {domain: corpus.split(domain) for domain in corpus.DOMAINS}
    tokenizer = build_tokenizer({domain: training for domain, (training, _) in splits.items()}, recipe)
    save_tokenizer(tokenizer, out, special=END_OF_TEXT, context=recipe.context)
    streams = {domain: tokenize(training, tokenizer) for domain, (training, _) in splits.items()}
    for domain, (training, held_out) in splits.items():
        tokens = len(streams[domain])
        log.info("%s: %d files, %d tokens; %d files held out", domain, len(training), tokens, len(held_out))

    model = build_model(recipe, tokenizer)
    started = time.perf_counter()
    fit(model, streams, recipe, end_of_text(tokenizer))
    seconds = time.perf_counter() - started
    save_model(model.eval(), out)

    counts = {domain: np.bincount(stream, minlength=recipe.vocabulary) for domain, stream in streams.items()}
    total = np.sum(list(counts.values()), axis=0)
    (out / "unigram_counts.json").write_text(json.dumps(total.tolist()) + "\n", encoding="utf-8")
    losses: dict[str, dict[str, float]] = {}
    for domain, (_, held_out) in splits.items():
        texts = exact_texts(sorted(held_out.items()), tokenizer, MEASURED_TOKENS)
        ids = torch.tensor([e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)])
        losses[domain] = held_out_losses(model, ids, log_unigram(total), log_unigram(counts[domain]))
        log.info("%s: %d texts, %s", domain, len(texts), losses[domain])

    card = describe(model, recipe, splits, {domain: len(stream) for domain, stream in streams.items()})
    card["training"]["seconds"] = round(seconds)
    card["held_out_loss"] = losses
    save_card(card, readme(card), out)
    log.info("wrote %s in %.0f s", out.name, seconds)
    return card


def describe(model: GPT2LMHeadModel, recipe: Recipe, splits: Splits, tokens: dict[str, int]) -> dict[str, Any]:
    """The card, but for what has to be measured."""
    return {
        "name": "domains",
        "architecture": {
            "family": "GPT-2", "layers": recipe.layers, "width": recipe.width, "heads": recipe.heads,
            "mlp": 4 * recipe.width, "context": recipe.context, "vocabulary": recipe.vocabulary,
            "parameters": sum(p.numel() for p in model.parameters()), "tied_embeddings": True, "dtype": "float32",
        },
        "training": {
            **asdict(recipe),
            "threads": torch.get_num_threads(),
            "optimiser": "AdamW, betas 0.9 and 0.95, gradient norm clipped at 1, cosine decay to a tenth",
            "tokens_seen": recipe.steps * recipe.rows_per_domain * len(corpus.DOMAINS) * recipe.length,
        },
        "data": {
            domain: {
                "training_files": len(training),
                "training_characters": sum(map(len, training.values())),
                "training_tokens": tokens[domain],
                "training_sha256": corpus.digest(sorted(training.items())),
                "held_out_files": sorted(held_out),
                "held_out_sha256": corpus.digest(sorted(held_out.items())),
            }
            for domain, (training, held_out) in splits.items()
        },
        "versions": versions(splits),
        "licence": "MIT for the weights, the tokenizer and this card. The texts are under the licences of the packages "
        "that ship them, and none of the text is included.",
    }  # fmt: skip


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the end-of-text token."""
    (end,) = tokenizer.encode(END_OF_TEXT).ids
    return end


def build_tokenizer(training: dict[str, dict[str, str]], recipe: Recipe) -> Tokenizer:
    """A byte-level BPE that has seen the same amount of every domain."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(training, recipe), trainer=trainer)
    return tokenizer


def _sample(training: dict[str, dict[str, str]], recipe: Recipe) -> Iterator[str]:
    """The same share of every file of a domain, so that no long file decides the vocabulary."""
    for files in training.values():
        share = min(1.0, recipe.tokenizer_characters / sum(map(len, files.values())))
        for text in files.values():
            size = int(len(text) * share)
            start = (len(text) - size) // 2
            yield text[start : start + size]


def tokenize(files: dict[str, str], tokenizer: Tokenizer) -> np.ndarray:
    """All files of a domain as one stream of ids, an end-of-text before each."""
    end = end_of_text(tokenizer)
    stream: list[int] = []
    for _, text in sorted(files.items()):
        stream.append(end)
        stream.extend(tokenizer.encode(text, add_special_tokens=False).ids)
    return np.asarray(stream, dtype=np.int64)


def build_model(recipe: Recipe, tokenizer: Tokenizer) -> GPT2LMHeadModel:
    """An untrained GPT-2 without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    end = end_of_text(tokenizer)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=recipe.vocabulary,
            n_positions=recipe.context,
            n_embd=recipe.width,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            n_inner=4 * recipe.width,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            summary_first_dropout=0.0,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=None,  # the tokenizer pads; a model that knows the id warns about prompts that begin with it
        )
    )


def fit(model: nn.Module, streams: dict[str, np.ndarray], recipe: Recipe, end: int) -> None:
    """AdamW on random windows, the same number of rows from every domain in each batch."""
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
    )
    random = np.random.default_rng(recipe.seed)
    model.train()
    recent: list[float] = []
    started = time.perf_counter()
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        ids = _batch(streams, recipe, random, step, end)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            mean, seconds = sum(recent) / len(recent), time.perf_counter() - started
            log.info("step %d of %d: loss %.3f, %.0f s", step + 1, recipe.steps, mean, seconds)
            recent.clear()


def _schedule(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def _batch(streams: dict[str, np.ndarray], recipe: Recipe, random: np.random.Generator, step: int, end: int) -> Tensor:
    long = (step + 1) % recipe.long_every == 0
    length, rows = (2 * recipe.length, recipe.rows_per_domain // 2) if long else (recipe.length, recipe.rows_per_domain)
    windows: list[np.ndarray] = []
    for stream in streams.values():
        for start in random.integers(0, len(stream) - length, size=rows):
            window = stream[start : start + length].copy()
            if random.random() < recipe.end_of_text_share:
                window[0] = end
            windows.append(window)
    return torch.from_numpy(np.stack(windows))


def versions(splits: Splits) -> dict[str, str]:
    """The versions of the packages that the texts came from, and of those that trained the model."""
    names = {corpus.distribution_of(name) for pair in splits.values() for files in pair for name in files}
    names = (names | {"numpy", "tokenizers", "torch", "transformers"}) - {"python"}
    # a local part such as +cpu says how a package was built, not what is in it
    found = {name: metadata.version(name).partition("+")[0] for name in sorted(names)}
    return {"python": platform.python_version(), **found}


def readme(card: dict[str, Any]) -> str:
    """The card for human readers, from the same numbers."""
    shape, training = card["architecture"], card["training"]
    what = {
        "python": "the standard library's sources",
        "cpp": "the C++ headers that torch ships",
        "maths": "sympy's sources and docstrings",
        "prose": "licences and documentation of the dependencies, Python's reference",
        "data": "JSON and CSV that the dependencies ship",
    }
    rows = "\n".join(
        f"| {d} | {what[d]} | {card['data'][d]['training_tokens']:,} | {len(card['data'][d]['held_out_files'])} "
        f"| {loss['model']:.2f} | {loss['unigram']:.2f} | {loss['unigram_of_domain']:.2f} |"
        for d, loss in card["held_out_loss"].items()
    )
    files = "\n".join(
        f"\n<details><summary>{d}</summary>\n\n"
        + "\n".join(f"- {f}" for f in data["held_out_files"])
        + "\n\n</details>"
        for d, data in card["data"].items()
    )
    return f"""---
license: mit
library_name: transformers
---

# domains

A GPT-2 of {shape["layers"]} layers, width {shape["width"]}, {shape["heads"]} heads, MLP width {shape["mlp"]}, context
{shape["context"]}, a byte-level BPE of {shape["vocabulary"]:,} tokens, tied embeddings, float32,
{shape["parameters"]:,} parameters. It is for trying out methods of interpretability on a real trained language model
that loads in a second; it is of no other use.

## Data and accuracy

Text that the packages a Python user of this library has installed ship anyway. Whole files were held out; none of the
text is included here.

| domain | what | training tokens | files held out | loss | unigram | unigram of the domain |
|---|---|---|---|---|---|---|
{rows}

Losses are nats per token on the strings that `zoo.texts(domain)` gives ({MEASURED_TOKENS} tokens each, held-out files
only, the first token given). *unigram* is fitted on the training tokens of all domains, *unigram of the domain* on
those of that domain alone.

## Training

{training["steps"]:,} steps of {training["optimiser"]}; learning rate {training["learning_rate"]}, weight decay
{training["weight_decay"]}, {training["warmup"]} steps of warm-up, {training["tokens_seen"]:,} tokens in equal shares of
the domains, windows of {training["length"]} tokens ({2 * training["length"]} in one step out of
{training["long_every"]}), a {training["end_of_text_share"]:.0%} share of which begins with `{END_OF_TEXT}`. No dropout.
Seed {training["seed"]}, {training["seconds"]:,} seconds on {training["threads"]} CPU thread(s). The script is
`ablationlens/zoo/train_domains.py`; the versions of all packages stand in `card.json`.

## Limits

Small and trained briefly. The domains overlap: sympy's sources are Python too, documentation shows code, and licences
quote one another. It says nothing reliable about any subject.

## Licence

{card["licence"]}

## Files held out of training
{files}
"""


if __name__ == "__main__":
    main()
