"""The recipes: each as it stands, on a tiny model of its architecture and a file made as its comment says.

Only the model's name, the data file and the numbers of draws are others than in the file.
"""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models

import ablationlens as al
from ablationlens.runs import config_file
from ablationlens.runs.overrides import Override
from tests import models
from tests.runs.tiny_runs import Command

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]

RECIPES = Path(__file__).parents[1] / "recipes"
VOCABULARY = 400
END, BEGIN = "<|endoftext|>", "<|begin_of_text|>"
STORIES = [
    "Once upon a time there was a cat.\nThe cat sat on a mat, and a dog ran.",
    "One day a dog saw a red ball. The dog ran to the ball.",
    "A girl had a little boat.\n\nIt was blue.",
]
PASSAGES = ["A cat is a small animal.", "The moon goes around the earth.", "Iron is a metal.", "A boat floats."]
QUESTIONS = ["is a cat large", "does the moon go around the earth", "is iron a metal", "do boats fly"]
ANSWERS = [False, True, True, False]
TRAINED_ON = [*STORIES, *PASSAGES, *QUESTIONS, "Question: Answer: yes Answer: no", "yes no yes no"] * 5


def save(model: Any, folder: Path, *, begins: bool) -> Path:
    """A model with a byte-level tokenizer like those of the three families: without a token to pad with."""
    model.save_pretrained(folder)
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(tokenizer_models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    special = [END, BEGIN] if begins else [END]
    plain.train_from_iterator(
        TRAINED_ON,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=letters, show_progress=False
        ),
    )
    tokens = {"eos_token": END, "bos_token": BEGIN if begins else END}
    if begins:
        plain.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", special_tokens=[(BEGIN, plain.token_to_id(BEGIN))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **tokens)
    assert tokenizer.pad_token is None and len(tokenizer(" yes", add_special_tokens=False)["input_ids"]) == 1
    tokenizer.save_pretrained(folder)
    return folder


def tiny_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, **ends)
    return models.scramble(GPT2LMHeadModel(config))


def tiny_phi() -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    config = PhiConfig(
        vocab_size=VOCABULARY,
        hidden_size=40,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    return models.scramble(PhiForCausalLM(config))


def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return models.scramble(LlamaForCausalLM(config)).to(torch.bfloat16)


def whole_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config())


def whole_phi() -> Any:
    from transformers import PhiConfig, PhiForCausalLM

    return PhiForCausalLM(
        PhiConfig(hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32)
    )


def whole_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28}
    return LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=24, num_key_value_heads=8))


@dataclass(frozen=True)
class Recipe:
    """What a recipe should be.

    Attributes:
        file: its name.
        model: makes a tiny model of its architecture.
        begins: whether the family's tokenizer puts a token before every text.
        sources: for `datasets.load_dataset` -> the columns that the data set has.
        kind: of its components.
        components: how many there are, of the tiny model.
        alpha: share that is ablated.
        methods: how its attributions are called.
        whole: makes a model of the size that the recipe names.
        whole_components: how many components that has, as the comment says.
    """

    file: str
    model: Callable[[], Any]
    begins: bool
    sources: Mapping[tuple[str, str | None, str], Mapping[str, list[Any]]]
    kind: str
    components: int
    alpha: float
    methods: tuple[str, ...]
    whole: Callable[[], Any]
    whole_components: int


def of_text(column: str, word: str) -> dict[str, list[Any]]:
    return {column: [f"{word} {story}" for story in STORIES] * 40, "other": [0] * 120}


ALL = [
    Recipe(
        "gpt2_tinystories.yaml",
        tiny_gpt2,
        False,
        {("roneneldan/TinyStories", None, "validation"): {"text": STORIES * 400}},
        "column",
        2 * (16 + 16 + 16 + 64),
        0.025,
        ("attribute",),
        whole_gpt2,
        64_512,
    ),
    Recipe(
        "phi2_boolq.yaml",
        tiny_phi,
        False,
        {
            ("google/boolq", None, "validation"): {
                "question": QUESTIONS * 150,
                "passage": PASSAGES * 150,
                "answer": ANSWERS * 150,
            }
        },
        "row_block",
        3 * (4 * 4 + 8 + 4),
        0.025,
        ("attribute",),
        whole_phi,
        73_728,
    ),
    Recipe(
        "llama3_domains.yaml",
        tiny_llama,
        True,
        {
            ("google-research-datasets/mbpp", "full", "test"): of_text("code", "def"),
            ("openai/gsm8k", "main", "test"): of_text("answer", "two"),
            ("qiaojin/PubMedQA", "pqa_labeled", "train"): of_text("long_answer", "iron"),
            ("coastalcph/lex_glue", "scotus", "test"): of_text("text", "law"),
            ("fancyzhx/ag_news", None, "test"): of_text("text", "news"),
        },
        "matrix",
        7 * 7,
        0.03,
        ("attribute", "leave-one-out"),
        whole_llama,
        196,
    ),
]
EACH = pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.file)


def test_every_recipe_is_tested() -> None:
    of_its_own = {"induction_heads.yaml"}  # on a bundled model: tests/runs/test_induction_recipe.py
    assert {path.name for path in RECIPES.iterdir()} == {recipe.file for recipe in ALL} | of_its_own


@EACH
def test_components_of_the_model_that_the_recipe_names(recipe: Recipe) -> None:
    with torch.device("meta"):
        model = recipe.whole()
    asked = config_file.load(RECIPES / recipe.file).registry
    registry = al.adapt(model).registry(list(asked.kinds), modules=asked.modules, size=asked.size)
    assert len(registry) == recipe.whole_components
    assert f"# {recipe.whole_components:,} components" in (RECIPES / recipe.file).read_text()


def comment_blocks(path: Path) -> Iterator[str]:
    """The indented parts of the comment at the top of a recipe."""
    lines: list[str] = []
    for line in [*path.read_text().splitlines(), ""]:
        if line.startswith("#     ") or (line == "#" and lines):
            lines.append(line[1:])
        elif lines:
            yield textwrap.dedent("\n".join(lines)).strip()
            lines = []


@EACH
def test_what_the_comment_proposes_to_set_can_be_set(recipe: Recipe) -> None:
    path = RECIPES / recipe.file
    lines = [line.partition("...")[2] for block in comment_blocks(path) for line in block.splitlines() if "..." in line]
    coar = 0
    for line in lines:
        words = shlex.split(line)
        assert words[::2] == ["--set"] * (len(words) // 2)
        config = config_file.load(path, [Override.parse(word, RECIPES.parent) for word in words[1::2]])
        assert config != config_file.load(path)
        assert {method.alpha for method in config.method if method.fitted} == {recipe.alpha}
        coar += any(method.coar is not None for method in config.method)
    assert 0 < coar < len(lines)  # the paper's way stays within reach


@pytest.fixture
def made(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The data files, made by the code in the recipe's comment from data sets with the same columns."""
    import datasets  # which comes with TransformerLens

    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(name: str, part: str | None = None, *, split: str) -> Any:
        asked.append((name, part, split))
        return datasets.Dataset.from_dict(dict(recipe.sources[name, part, split]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.chdir(folder)
    code = next(block for block in comment_blocks(RECIPES / recipe.file) if "load_dataset" in block)
    exec(compile(code, recipe.file, "exec"), {})
    assert set(asked) == set(recipe.sources)
    return sorted(folder.iterdir())


def shortened(made: list[Path], recipe: Recipe) -> list[Path]:
    """The files that the recipe names, in its order, with a few of their lines."""
    named = yaml.safe_load((RECIPES / recipe.file).read_text())["data"]["file"]
    named = named if isinstance(named, list) else [named]
    assert sorted(named) == [path.name for path in made]
    folder = made[0].parent
    for path in made:
        lines = path.read_text().splitlines(keepends=True)
        assert len(lines) in (100, 500, 1000)
        path.write_text("".join(lines[: 6 // len(made) or 1]))
    return [folder / name for name in named]


def plain_margins(recipe: Recipe, folder: Path, files: list[Path]) -> list[float]:
    """What each example's output should be with everything kept: Hugging Face alone, one text at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    content = yaml.safe_load((RECIPES / recipe.file).read_text())
    dtype = getattr(torch, content["model"]["dtype"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    margins: list[float] = []
    for item in [json.loads(line) for path in files for line in path.read_text().splitlines()]:
        boolq = "question" in item
        text = f"{item['passage']}\nQuestion: {item['question']}?\nAnswer:" if boolq else item["text"]
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0].float()
        if boolq:
            yes, no = (
                logits[-1, tokenizer(word, add_special_tokens=False)["input_ids"][0]] for word in (" yes", " no")
            )
            margins.append(float(yes - no if item["answer"] else no - yes))
            continue
        each = []
        for row, label in zip(logits[:-1], ids[0, 1:].tolist(), strict=True):
            each.append(float(row[label] - torch.cat([row[:label], row[label + 1 :]]).max()))
        margins.append(sum(each) / len(each))
    return margins


@EACH
def test_recipes_run(recipe: Recipe, made: list[Path], command: Command, tmp_path: Path) -> None:
    files = shortened(made, recipe)
    folder = save(recipe.model(), tmp_path / "model", begins=recipe.begins)
    out = tmp_path / "out"
    data = str(files[0]) if len(files) == 1 else f"[{', '.join(map(str, files))}]"
    changes = {"model.name": folder, "data.file": data, "method.0.attribute.budget": 100, "evaluate.draws": 5}
    options = [word for field, value in changes.items() for word in ("--set", f"{field}={value}")]
    code, printed, err = command("run", RECIPES / recipe.file, "--out", out, *options)
    assert code == 0, err
    assert "pearson" in printed

    assert (out / "report.html").stat().st_size > 10_000
    ran, asked = config_file.load(out / "config.yaml"), config_file.load(RECIPES / recipe.file)
    of_method = {"__all__": {"attribute": {"budget"}}}
    changed = {"model": {"name"}, "data": {"file"}, "method": of_method, "evaluate": {"draws"}}
    assert ran.model_dump(exclude=changed) == asked.model_dump(exclude=changed)
    assert ran.data.files == [str(file) for file in files]
    full = plain_margins(recipe, folder, files)
    for method in recipe.methods:
        attribution = al.Attribution.load(out / f"{method.lower().replace('-', '_')}.safetensors")
        assert attribution.method == method
        assert attribution.weights.shape == (len(full), recipe.components)
        assert set(attribution.weights["kind"].values) == {recipe.kind}
        assert np.isfinite(attribution.weights).all() and np.isfinite(attribution.bias).all()
        assert np.abs(attribution.weights.values).max() > 0
    first = al.Attribution.load(out / "attribute.safetensors").provenance
    assert (first["alpha"], first["budget"]) == (recipe.alpha, 100) and 0 < first["spent"] <= 100
    assert f"attribute: {first['chosen']}" in printed
    tolerance = 0.05 if asked.model.dtype == "bfloat16" else 1e-4
    np.testing.assert_allclose(first["full_output"], full, atol=tolerance)
    scores = al.Scores.load(out / "scores.safetensors").table()
    assert set(scores["alpha"]) == set(asked.alphas) and recipe.alpha in set(scores["alpha"])
