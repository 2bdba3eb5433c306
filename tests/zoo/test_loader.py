"""The bundled models: what the cards promise is measured again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ablationlens.zoo
from ablationlens.errors import AblationLensError, InputError, UnknownNameError
from ablationlens.zoo import ZooModel, corpus
from ablationlens.zoo.copying import copy_accuracy
from ablationlens.zoo.loader import NAMES
from ablationlens.zoo.measure import held_out_losses, log_unigram

BLOCKED_HUB = """
import socket, sys

def refuse(*args, **kwargs):
    print("the network was asked for", args, file=sys.stderr)
    raise OSError("no network here")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""


@pytest.fixture(scope="module")
def domains() -> ZooModel:
    return ablationlens.zoo.load("domains")


@pytest.fixture(scope="module")
def induction() -> ZooModel:
    return ablationlens.zoo.load("induction")


@pytest.fixture(params=NAMES)
def zoo(request: pytest.FixtureRequest) -> ZooModel:
    return request.getfixturevalue(request.param)


def encode(zoo: ZooModel, texts: list[str]) -> torch.Tensor:
    return torch.tensor(zoo.tokenizer(texts, add_special_tokens=False)["input_ids"])


# what is on disk


def test_directories_are_small_and_never_pickled(zoo: ZooModel) -> None:
    files = [path for path in zoo.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6_000_000
    assert {path.suffix for path in files} <= {".json", ".md", ".safetensors"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "card.json", "README.md"} <= {p.name for p in files}


def test_no_file_names_a_machine(zoo: ZooModel) -> None:
    for path in (p for p in zoo.path.rglob("*") if p.suffix in {".json", ".md"} and p.name != "tokenizer.json"):
        assert not re.search(r"/(home|root|tmp|work|usr|Users)/|https?://(?!huggingface)", path.read_text()), path.name


def test_architectures() -> None:
    gpt2 = json.loads((ablationlens.zoo.load("domains").path / "config.json").read_text())
    assert (gpt2["model_type"], gpt2["n_layer"], gpt2["n_embd"], gpt2["n_head"]) == ("gpt2", 4, 128, 4)
    assert gpt2["n_positions"] >= 128
    assert {gpt2[key] for key in ("attn_pdrop", "embd_pdrop", "resid_pdrop")} == {0.0}
    llama = json.loads((ablationlens.zoo.load("induction").path / "config.json").read_text())
    assert (llama["model_type"], llama["num_hidden_layers"]) == ("llama", 2)
    assert llama["num_key_value_heads"] < llama["num_attention_heads"]


# loading


def test_an_unknown_name_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="domains, induction"):
        ablationlens.zoo.load("gpt2")


def test_the_model_is_float32_in_eval_mode_and_cached(zoo: ZooModel) -> None:
    assert {parameter.dtype for parameter in zoo.model.parameters()} == {torch.float32}
    assert not [module for module in zoo.model.modules() if module.training]
    assert zoo.model is zoo.model


def test_a_bridge_computes_what_the_model_computes_and_leaves_it_alone(zoo: ZooModel) -> None:
    modules = [(name, type(module)) for name, module in zoo.model.named_modules()]
    before = {name: value.clone() for name, value in zoo.model.state_dict().items()}
    bridge = zoo.bridge()
    ids = torch.randint(1, 250, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, logits = zoo.model(ids).logits, bridge(ids)
    assert (expected - logits).abs().max() < 1e-4
    assert [(name, type(module)) for name, module in zoo.model.named_modules()] == modules
    after = zoo.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    ours = {parameter.data_ptr() for parameter in zoo.model.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in bridge.parameters()}


def test_importing_the_zoo_imports_no_host_library() -> None:
    code = (
        "import sys, ablationlens.zoo as z\n"
        "z.load('domains').card, z.load('induction').sequences(2, 8)\n"
        "print([m for m in ('transformers', 'transformer_lens', 'tokenizers', 'nnsight') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


def test_nothing_asks_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    code = BLOCKED_HUB + (
        "import ablationlens.zoo as z\n"
        "for name in ('domains', 'induction'):\n"
        "    zoo = z.load(name)\n"
        "    zoo.model, zoo.tokenizer, zoo.bridge()\n"
        "z.load('domains').texts('python')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "the network was asked for" not in run.stderr


# domains


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_held_out_loss_is_a_nat_below_the_unigram_and_as_the_card_says(domains: ZooModel, domain: str) -> None:
    counts = np.array(json.loads((domains.path / "unigram_counts.json").read_text()))
    ids = encode(domains, domains.texts(domain))
    measured = held_out_losses(domains.model, ids, log_unigram(counts))
    assert measured["model"] < measured["unigram"] - 1.0
    if domains.provenance(domain)["as_in_card"]:
        card = domains.card["held_out_loss"][domain]
        assert measured["model"] == pytest.approx(card["model"], abs=0.01)
        assert measured["unigram"] == pytest.approx(card["unigram"], abs=0.01)


@pytest.mark.parametrize("domain", corpus.DOMAINS)
@pytest.mark.parametrize("tokens", [8, 64, 128])
def test_texts_have_exactly_so_many_tokens(domains: ZooModel, domain: str, tokens: int) -> None:
    texts = domains.texts(domain, tokens)
    assert len(texts) >= 200
    assert len(set(texts)) == len(texts)
    assert encode(domains, texts).shape == (len(texts), tokens)


def test_texts_come_in_a_fixed_order(domains: ZooModel) -> None:
    assert domains.texts("prose") == ablationlens.zoo.load("domains").texts("prose")


@pytest.mark.parametrize("domain", corpus.DOMAINS)
def test_texts_are_from_several_held_out_files_and_in_no_training_file(domains: ZooModel, domain: str) -> None:
    held_out = domains.card["data"][domain]["held_out_files"]
    training = [n for n in corpus.candidates(domain) if n not in held_out]
    contents = "\0".join(text for name in training if (text := corpus.read(name)) is not None)
    texts = domains.texts(domain)
    repeated = [text for text in texts if text in contents]
    assert len(repeated) <= 0.02 * len(texts)  # a stock phrase may be; whole passages may not
    files = [text for name in held_out if (text := corpus.read(name)) is not None]
    first = [{i for i, file in enumerate(files) if text in file} for text in texts[:8]]
    assert all(first)
    assert len(set.union(*first)) >= 4


def test_provenance_hashes_the_sources(domains: ZooModel) -> None:
    provenance = domains.provenance("data")
    assert re.fullmatch("[0-9a-f]{64}", provenance["sha256"])
    assert set(provenance["files"]) | set(provenance["missing"]) == set(corpus.HELD_OUT_DATA)
    assert {"torch", "python"} <= provenance["versions"].keys()


def test_texts_go_on_without_a_file_that_is_missing(domains: ZooModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read, gone = corpus.read, domains.card["data"]["cpp"]["held_out_files"][0]

    def read_but_one(name: str) -> str | None:
        return None if name == gone else read(name)

    monkeypatch.setattr(corpus, "read", read_but_one)
    assert len(domains.texts("cpp")) >= 200
    provenance = domains.provenance("cpp")
    assert provenance["missing"] == [gone]
    assert not provenance["as_in_card"]


def test_a_domain_without_any_file_is_a_clear_error(domains: ZooModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "read", dict[str, str]().get)
    with pytest.raises(AblationLensError, match=r"none of the \d+ held-out source files of 'maths' is installed"):
        domains.texts("maths")


def test_an_unknown_domain_is_refused_with_the_valid_ones(domains: ZooModel) -> None:
    with pytest.raises(UnknownNameError, match="python, cpp, maths, prose, data"):
        domains.texts("rust")


# induction


@pytest.mark.parametrize("length", [8, 16, 32, 48])
def test_induction_copies(induction: ZooModel, length: int) -> None:
    accuracy = copy_accuracy(induction.model, induction.sequences(256, length, seed=77))
    assert accuracy > 0.95
    assert accuracy == pytest.approx(induction.card["copy_accuracy"][str(length)], abs=0.02)


def test_the_card_scores_every_head(induction: ZooModel) -> None:
    heads = induction.card["heads"]
    shape = induction.card["architecture"]
    assert [(h["layer"], h["head"]) for h in heads] == [
        (layer, head) for layer in range(shape["layers"]) for head in range(shape["heads"])
    ]
    assert max(h["previous_token"] for h in heads if h["layer"] == 0) > 0.5
    assert max(h["induction"] for h in heads if h["layer"] == 1) > 0.5
    assert any(h["matters"] for h in heads)


def test_the_tokenizer_of_induction_reads_numbers(induction: ZooModel) -> None:
    assert induction.tokenizer("5 17 3")["input_ids"] == [5, 17, 3]


def test_what_a_model_does_not_have_is_refused(domains: ZooModel, induction: ZooModel) -> None:
    with pytest.raises(InputError, match="trained on no texts"):
        induction.texts("python")
    with pytest.raises(InputError, match="copies no sequences"):
        domains.sequences(2, 8)
    with pytest.raises(InputError, match="at most 64"):
        induction.sequences(2, 65)


def test_the_weights_lie_inside_the_package(zoo: ZooModel) -> None:
    assert zoo.path.is_relative_to(Path(ablationlens.zoo.__file__).parent)
