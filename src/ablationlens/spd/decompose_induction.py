"""Train the bundled decomposition: ``python -m ablationlens.spd.decompose_induction --out DIR``.

Every attention projection of the bundled model `induction`, on repeated random sequences of varying length. Writes the
decomposition and its card.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.adapters.dispatch import adapt
from ablationlens.data import Batch, batch
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.base import Base
from ablationlens.outputs import KL
from ablationlens.provenance import packages
from ablationlens.spd.adversary import Ascent
from ablationlens.spd.bundled import CARD, FILE
from ablationlens.spd.decomposition import Decomposition, Part, Where, name_of
from ablationlens.spd.losses import Faithfulness, Minimality, Reconstruction
from ablationlens.spd.modes import Deterministic, Stochastic
from ablationlens.spd.pgd import PGD
from ablationlens.spd.saving import save
from ablationlens.spd.training import ALIVE, train
from ablationlens.zoo import load
from ablationlens.zoo.copying import repeated_sequences
from ablationlens.zoo.saving import save_card
from ablationlens.zoo.training_line import parse

log = logging.getLogger(__name__)

VOCABULARY = 256
MEASURED_SEED = 1_000_000
"""Far from anything that training draws."""
MEASURED, MEASURED_LENGTH = 128, 24
LIVE_SHARE = 1e-3
"""A component is alive if its importance is above `ALIVE` at more than this share of positions."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is trained."""

    components: int = 128
    steps: int = 3000
    rows: int = 16
    shortest: int = 8
    longest: int = 32
    importance: str = "shared_mlp"
    hidden: int = 64
    learning_rate: float = 2e-3
    faithfulness: float = 1e3
    minimality: float = 3e-3
    p: float = 2.0
    p_end: float = 0.4
    adversarial: float = 0.5
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train, measure and save."""
    options = parse(
        "python -m ablationlens.spd.decompose_induction", __doc__, arguments, steps=Recipe.steps, seed=Recipe.seed
    )
    decompose(Recipe(steps=options.steps, seed=options.seed), options.out)


def decompose(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train the decomposition, write it and its card to `out`, and return the card."""
    adapter = adapt(load("induction").model)

    def examples(step: int) -> Batch:
        drawn = torch.Generator().manual_seed(recipe.seed * 1_000_000 + step)
        length = int(torch.randint(recipe.shortest, recipe.longest + 1, (), generator=drawn))
        return batch(
            repeated_sequences(recipe.rows, length, VOCABULARY, int(torch.randint(2**31, (), generator=drawn)))
        )

    decomposition = train(
        adapter,
        ["q", "k", "v", "o"],
        recipe.components,
        examples,
        steps=recipe.steps,
        losses=(
            Faithfulness(recipe.faithfulness),
            Minimality(recipe.minimality, p=recipe.p, p_end=recipe.p_end),
            Reconstruction(routing="subset"),
            # random masks alone leave the queries of layer 1 without importance: halves of many parts do as well
            Reconstruction(recipe.adversarial, routing="all", adversary=Ascent(1, 1.0, "shared")),
        ),
        importance=recipe.importance,
        hidden=(recipe.hidden,),
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    card = describe(adapter, decomposition, recipe)
    save(decomposition, out / FILE)
    (out / FILE).chmod(0o644)
    save_card(card, readme(card), out)
    assert (out / CARD).is_file()
    log.info("wrote %s", out.name)
    return card


def describe(adapter: Adapter, decomposition: Decomposition, recipe: Recipe) -> dict[str, Any]:
    """Measure a decomposition; its card."""
    ids = repeated_sequences(MEASURED, MEASURED_LENGTH, VOCABULARY, MEASURED_SEED)
    data = batch(ids)
    copies = {
        name: round(_copy_accuracy(adapter, decomposition, base, ids), 4)
        for name, base in {
            "target": None,
            "deterministic": Deterministic(decomposition),
            "stochastic": Stochastic(decomposition),
            "adversarial": PGD(decomposition),
        }.items()
    }
    log.info("copy accuracy: %s", copies)
    importances = decomposition.importances(adapter, data)
    weights = decomposition.reconstruction(adapter)
    modules: list[dict[str, Any]] = []
    for (where, part), relative in zip(decomposition.items(), weights["relative"], strict=True):
        live = importances[where] > ALIVE
        modules.append(
            {
                "module": name_of(where),
                "components": part.components,
                "remainder": round(float(relative), 4),
                "gap": round(_gap(adapter, where, part, data), 5),
                "alive": int((live.float().mean((0, 1)) > LIVE_SHARE).sum()),
                "L0": round(float(live.float().sum(-1).mean()), 2),
                "mean_importance": round(float(importances[where].mean()), 4),
            }
        )
        log.info("%s", modules[-1])
    return {
        "name": "induction",
        "model": "induction",
        "recipe": asdict(recipe),
        "seconds": decomposition.provenance["seconds"],
        "threads": torch.get_num_threads(),
        "copy_accuracy": copies,
        "measured_on": {"sequences": MEASURED, "length": MEASURED_LENGTH, "seed": MEASURED_SEED, "alive": ALIVE},
        "modules": modules,
        "versions": packages(),
        "licence": "MIT",
    }


def _copy_accuracy(
    adapter: Adapter, decomposition: Decomposition, base: Base | None, ids: Int[Tensor, "n twice_length"]
) -> float:
    """Share of the second half's tokens, from its second on, that the model predicts in a mode."""
    model = MaskedModel(adapter, decomposition.registry(adapter), output=KL(), base=base)
    logits = model.logits(model.mask(), batch(ids))
    length = ids.shape[1] // 2
    return float((logits[:, length:-1].argmax(-1) == ids[:, length + 1 :]).float().mean())


def _gap(adapter: Adapter, where: Where, part: Part, data: Batch) -> float:
    """KL(model || model without the remainder of one module), in nats, a mean over positions."""
    alone = Decomposition({where: Part(part.V, part.U)})
    model = MaskedModel(adapter, alone.registry(adapter), output=KL())
    return float(model(model.mask(len(model.registry) - 1), data).mean())


def readme(card: dict[str, Any]) -> str:
    """The card for human readers, from the same numbers."""
    recipe, copies, measured = card["recipe"], card["copy_accuracy"], card["measured_on"]
    rows = "\n".join(
        f"| {m['module']} | {m['components']} | {m['remainder']:.3f} | {m['gap']:.4f} | {m['alive']} | {m['L0']:.1f} "
        f"| {m['mean_importance']:.3f} |"
        for m in card["modules"]
    )
    return f"""# A decomposition of induction

Rank-one components of the attention projections of the bundled model `induction`, by stochastic parameter decomposition
(arXiv 2506.20790). Load it with `al.spd.bundled("induction")`.

## What it keeps of the model

Copy accuracy on {measured["sequences"]} fresh sequences of {measured["length"]} tokens, twice: {copies["target"]:.1%}
of the model itself; {copies["deterministic"]:.1%} with every component at its importance and no remainders;
{copies["stochastic"]:.1%} with stochastic masks; {copies["adversarial"]:.1%} with adversarial ones (20 steps of 0.1).

## Modules

Remainder: its Frobenius norm over that of the weight. Gap: KL in nats between the model and the model without the
remainder of this module alone. Alive: components with an importance above {measured["alive"]} at more than a
thousandth of the positions. L0: components above {measured["alive"]} at a position, the mean.

| module | components | remainder | gap | alive | L0 | mean importance |
|---|---|---|---|---|---|---|
{rows}

## Training

{recipe["steps"]:,} steps of {recipe["rows"]} sequences whose repeated part has {recipe["shortest"]} to
{recipe["longest"]} tokens, seed {recipe["seed"]}, {card["seconds"]:,.0f} seconds on {card["threads"]} CPU thread(s);
the settings are those of `Recipe` in `ablationlens/spd/decompose_induction.py`, and stand in card.json.

## Licence

{card["licence"]}
"""


if __name__ == "__main__":
    main()
