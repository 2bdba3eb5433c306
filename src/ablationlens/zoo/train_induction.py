"""Train the bundled model `induction`: ``python -m ablationlens.zoo.train_induction --out DIR``.

A 2-layer Llama with grouped-query attention on repeated random sequences, a few minutes on one CPU core. The length of
the repeated part and the place where it begins vary from batch to batch, so that no fixed distance can be learnt: the
model has to find the earlier occurrence by content. Writes a Hugging Face directory and the card.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablationlens.zoo.copying import FIRST_TOKEN, accuracy_without, copy_accuracy, head_scores, repeated_sequences
from ablationlens.zoo.saving import save_card, save_model, save_tokenizer
from ablationlens.zoo.training_line import parse

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

log = logging.getLogger(__name__)

BEGIN_OF_TEXT = "<bos>"
MEASURED_SEED = 1_000_000
"""Far from anything that training draws."""
MEASURED_LENGTHS = (8, 16, 24, 32, 48)
SCORED_LENGTH = 24


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is trained."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    key_value_heads: int = 2
    mlp: int = 256
    context: int = 128
    vocabulary: int = 256
    steps: int = 4000
    rows: int = 64
    shortest: int = 4
    longest: int = 48
    longest_prefix: int = 8
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.01
    seed: int = 1
    """With seed 0 a second head of the first layer, on the current token, is as needed as the one on the previous
    token; a model whose circuit is known should have one such head."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train, measure and save."""
    options = parse(
        "python -m ablationlens.zoo.train_induction", __doc__, arguments, steps=Recipe.steps, seed=Recipe.seed
    )
    train(Recipe(steps=options.steps, seed=options.seed), options.out)


def train(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train the model, write it and its card to `out`, and return the card."""
    torch.manual_seed(recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(recipe)
    started = time.perf_counter()
    tokens_seen = fit(model, recipe)
    seconds = time.perf_counter() - started
    save_model(model.eval(), out)
    save_tokenizer(build_tokenizer(recipe), out, special=BEGIN_OF_TEXT, context=recipe.context)
    card = describe(model, recipe, tokens_seen, seconds)
    save_card(card, readme(card), out)
    log.info("wrote %s in %.0f s", out.name, seconds)
    return card


def describe(model: LlamaForCausalLM, recipe: Recipe, tokens_seen: int, seconds: float) -> dict[str, Any]:
    """Measure a trained model; its card."""
    accuracy = {
        str(length): round(copy_accuracy(model, repeated_sequences(512, length, recipe.vocabulary, MEASURED_SEED)), 4)
        for length in MEASURED_LENGTHS
    }
    log.info("copy accuracy by length: %s", accuracy)
    return {
        "name": "induction",
        "architecture": {
            "family": "Llama", "layers": recipe.layers, "width": recipe.width, "heads": recipe.heads,
            "key_value_heads": recipe.key_value_heads, "mlp": recipe.mlp, "context": recipe.context,
            "vocabulary": recipe.vocabulary, "parameters": sum(p.numel() for p in model.parameters()),
            "tied_embeddings": False, "dtype": "float32",
        },
        "training": {
            **asdict(recipe),
            "threads": torch.get_num_threads(),
            "optimiser": "AdamW, betas 0.9 and 0.98, gradient norm clipped at 1, cosine decay to a tenth",
            "tokens_seen": tokens_seen,
            "seconds": round(seconds),
        },
        "data": "random tokens, drawn anew for every batch: a random prefix, then a random block twice",
        "copy_accuracy": accuracy,
        "measured_on": {"sequences": 512, "seed": MEASURED_SEED, "length_for_heads": SCORED_LENGTH},
        "heads": describe_heads(model, recipe),
        "versions": {
            name: metadata.version(name).partition("+")[0] for name in ("tokenizers", "torch", "transformers")
        },
        "licence": "MIT",
    }  # fmt: skip


def describe_heads(model: LlamaForCausalLM, recipe: Recipe) -> list[dict[str, Any]]:
    """What every head attends to, and the accuracy without it and with it as the only one left in its layer."""
    ids = repeated_sequences(512, SCORED_LENGTH, recipe.vocabulary, MEASURED_SEED)
    intact = copy_accuracy(model, ids)
    model.set_attn_implementation("eager")  # which alone gives attention patterns
    scores = head_scores(model, ids)
    model.set_attn_implementation("sdpa")
    heads: list[dict[str, Any]] = []
    for layer in range(recipe.layers):
        for head in range(recipe.heads):
            others = [(layer, other) for other in range(recipe.heads) if other != head]
            without = accuracy_without(model, ids, [(layer, head)])
            heads.append(
                {
                    "layer": layer,
                    "head": head,
                    **{name: round(score[layer, head].item(), 4) for name, score in scores.items()},
                    "accuracy_without": round(without, 4),
                    "accuracy_as_only_head_of_its_layer": round(accuracy_without(model, ids, others), 4),
                    "matters": intact - without > 0.05,
                }
            )
            log.info("%s", heads[-1])
    return heads


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    """An untrained Llama with grouped-query attention."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.width,
            intermediate_size=recipe.mlp,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_value_heads,
            head_dim=recipe.width // recipe.heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
        )
    )


def build_tokenizer(recipe: Recipe) -> Tokenizer:
    """A tokenizer that reads numbers: "5 17 3" is the tokens 5, 17 and 3."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {BEGIN_OF_TEXT: 0, **{str(i): i for i in range(FIRST_TOKEN, recipe.vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=BEGIN_OF_TEXT))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def fit(model: nn.Module, recipe: Recipe) -> int:
    """AdamW on fresh random batches; the number of tokens that the model saw."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    model.train()
    seen = 0
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        ids, known = _batch(recipe, generator)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        losses = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        # the random part cannot be predicted: a little weight keeps the model honest about that
        loss = losses[:, known:].mean() + 0.1 * losses[:, :known].mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen += ids.numel()
        if (step + 1) % 200 == 0:
            log.info(
                "step %d of %d: loss on the second half %.3f", step + 1, recipe.steps, losses[:, known:].mean().item()
            )
    return seen


def _schedule(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def _batch(recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, int]:
    """Token ids [row, prefix + 2 * length], and from which next-token loss on the tokens are known."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    length, before = draw(recipe.shortest, recipe.longest), draw(0, recipe.longest_prefix)
    prefix = torch.randint(FIRST_TOKEN, recipe.vocabulary, (recipe.rows, before), generator=generator)
    if before:
        prefix[: recipe.rows // 2, 0] = 0  # half of the rows begin as a tokenizer that adds <bos> would make them
    block = torch.randint(FIRST_TOKEN, recipe.vocabulary, (recipe.rows, length), generator=generator)
    return torch.cat([prefix, block, block], dim=1), before + length


def readme(card: dict[str, Any]) -> str:
    """The card for human readers, from the same numbers."""
    shape, training = card["architecture"], card["training"]
    lengths = "\n".join(f"| {length} | {accuracy:.1%} |" for length, accuracy in card["copy_accuracy"].items())
    heads = "\n".join(
        f"| L{h['layer']}.head {h['head']} "
        f"| {h['current_token']:.3f} | {h['previous_token']:.3f} | {h['induction']:.3f} "
        f"| {h['accuracy_without']:.1%} | {h['accuracy_as_only_head_of_its_layer']:.1%} "
        f"| {'yes' if h['matters'] else ''} |"
        for h in card["heads"]
    )
    return f"""---
license: mit
library_name: transformers
---

# induction

A Llama of {shape["layers"]} layers, width {shape["width"]}, {shape["heads"]} query heads over
{shape["key_value_heads"]} key/value heads, gated MLP of width {shape["mlp"]}, {shape["vocabulary"]} tokens, context
{shape["context"]}, float32, {shape["parameters"]:,} parameters. It copies: shown a random sequence twice, it predicts
the second half.

## Accuracy

Of the second half's tokens, from its second on, on {card["measured_on"]["sequences"]} fresh random sequences
(`zoo.sequences(n, length, seed={card["measured_on"]["seed"]})`). Tokens are drawn with replacement, so that a few
places are ambiguous.

| length of the repeated part | accuracy |
|---|---|
{lengths}

## Heads

At length {card["measured_on"]["length_for_heads"]}: the mean attention on the current and on the previous token; in
the second half, the mean attention on the token after the earlier occurrence of the current one (induction); the copy
accuracy with that head alone silenced (its part of the input of `o_proj` set to zero); the accuracy with all other
heads of its layer silenced; and whether silencing it alone costs more than five points. Heads that stand in for one
another do not show when they are silenced one at a time: compare the two columns.

| head | current token | previous token | induction | without it | as the only head of its layer | matters |
|---|---|---|---|---|---|---|
{heads}

## Training

{training["steps"]:,} steps of {training["optimiser"]}; {training["rows"]} sequences a step, learning rate
{training["learning_rate"]}, weight decay {training["weight_decay"]}, {training["tokens_seen"]:,} tokens, seed
{training["seed"]}, {training["seconds"]:,} seconds on {training["threads"]} CPU thread(s). Data: {card["data"]}; the
block's length is drawn from {training["shortest"]} to {training["longest"]}, the prefix's from 0 to
{training["longest_prefix"]}; where there is a prefix, half of the rows begin with `{BEGIN_OF_TEXT}`
(token 0). The script is `ablationlens/zoo/train_induction.py`.

## Licence

{card["licence"]}
"""


if __name__ == "__main__":
    main()
