"""Models that are opened: from a directory, from the hub, from its cache; and those that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import ablationlens as al
from ablationlens.errors import ConfigError
from ablationlens.runs.config import ModelConfig
from ablationlens.runs.loading import open_model
from tests import hub, models
from tests.runs.tiny_runs import Command, Refused, WriteConfig

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]

NAME = "somebody/tiny"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def opened(path: Path, host: str = "torch", **options: Any) -> Any:
    return open_model(ModelConfig(name=str(path), host=host, **options))  # type: ignore[arg-type]


@pytest.fixture
def own_directory(tiny_directory: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to take files away from."""
    return Path(shutil.copytree(tiny_directory, tmp_path / "own"))


def without_tokenizer(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        (folder / name).unlink()


# --- directories ------------------------------------------------------------------------------------------------------


def test_every_host_holds_the_same_weights(tiny_directory: Path) -> None:
    import nnsight
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPT2LMHeadModel

    ids = torch.tensor([[1, 2, 3, 4]])
    expected = models.logits_of(models.gpt2(), ids)
    for host, kind in (
        ("torch", GPT2LMHeadModel),
        ("transformer_lens", TransformerBridge),
        ("nnsight", nnsight.TransformersModel),
    ):
        one = opened(tiny_directory, host)
        assert isinstance(one.model, kind)
        adapter = al.adapt(one.model)
        assert adapter.host == host
        assert models.close(adapter.forward(al.batch(ids)), expected)
        # Hosts change the tokenizer that they are given: the side that is padded, tokens of their own.
        assert (one.tokenizer.padding_side, one.tokenizer.pad_token, len(one.tokenizer)) == ("right", "[UNK]", 50)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_loaded_in_the_dtype_that_is_asked_for(tiny_directory: Path, dtype: str) -> None:
    model = opened(tiny_directory, dtype=dtype, device="auto").model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert not model.training


def test_shards(tmp_path: Path, tiny_directory: Path) -> None:
    model, folder = models.gpt2(seed=3), Path(shutil.copytree(tiny_directory, tmp_path / "shards"))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and not (folder / "model.safetensors").exists()
    ids = torch.tensor([[1, 2, 3, 4]])
    assert models.close(models.logits_of(opened(folder).model, ids), models.logits_of(model, ids), 0)
    shards[1].unlink()
    with pytest.raises(ConfigError, match=f"cannot be loaded: No such file or directory: .*{shards[1].name}"):
        opened(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(
        ConfigError, match=f"holds {shards[0].name}, but neither model.safetensors nor model.safetensors.index.json"
    ):
        opened(folder)


def test_a_directory_without_a_tokenizer(
    command: Command, refused: Refused, write_config: WriteConfig, own_directory: Path, tmp_path: Path
) -> None:
    without_tokenizer(own_directory)
    assert command("components", own_directory)[0] == 0
    model = {"name": str(own_directory), "host": "torch"}
    line = refused("run", write_config(model=model), "--out", tmp_path / "out")
    assert f"model.name: the data are texts, and {own_directory} holds no tokenizer (tokenizer.json" in line
    line = refused("run", write_config(model={**model, "host": "transformer_lens"}), "--out", tmp_path / "bridge")
    assert "model.host: TransformerLens needs a tokenizer" in line and "try host: torch" in line

    (tmp_path / "ids.jsonl").write_text('{"ids": [1, 2, 3, 4]}\n{"ids": [5, 6, 7, 8]}\n')
    small = {"method": "leave_one_out", "evaluate": {"alphas": 0.5, "draws": 5}}
    for host in ("torch", "nnsight"):
        config = write_config(model={**model, "host": host}, data={"file": "ids.jsonl", "field": "ids"}, **small)
        code, _, err = command("run", config, "--out", tmp_path / host)
        assert code == 0, err


def test_a_tokenizer_without_a_token_to_pad_with(
    command: Command, write_config: WriteConfig, own_directory: Path, tmp_path: Path
) -> None:
    settings = json.loads((own_directory / "tokenizer_config.json").read_text())
    (own_directory / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": None}))
    (tmp_path / "uneven.txt").write_text("w1 w2 w3 w4 w5\nw6 w7 w8\n")
    small = {"method": "leave_one_out", "evaluate": {"alphas": 0.5, "draws": 5}, "data": {"file": "uneven.txt"}}
    config = write_config(model={"name": str(own_directory), "host": "torch"}, **small)
    code, _, err = command("run", config, "--out", tmp_path / "out")
    assert code == 0, err


def test_models_that_are_refused(refused: Refused, tiny_directory: Path, tmp_path: Path) -> None:
    pickled, bare, damaged = tmp_path / "pickled", tmp_path / "bare", tmp_path / "damaged"
    for folder in (pickled, bare, damaged):
        folder.mkdir()
        (folder / "config.json").write_text((tiny_directory / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (damaged / "model.safetensors").write_bytes((tiny_directory / "model.safetensors").read_bytes()[:500])
    line = refused("components", pickled)
    assert "holds pickled weights only (pytorch_model.bin), which are never loaded" in line
    assert "holds no weights" in refused("components", bare)
    assert "cannot be loaded" in refused("components", damaged)
    assert "no Hugging Face model: it has no config.json" in refused("components", tmp_path)


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_a_model_of_the_hub_is_fetched_once_and_then_is_here(
    write_config: WriteConfig, tiny_directory: Path, tmp_path: Path
) -> None:
    cache, count = tmp_path / "cache", ["components", NAME, "--kind", "head"]
    with hub.serving(NAME, tiny_directory) as address:
        fetched, unknown = hub.call(count, ["components", "somebody/else"], cache=cache, HF_ENDPOINT=address)
    assert fetched.code == 0 and fetched.out.split()[-1] == "8", fetched.err
    assert "the hub has no such model, or does not show it to you" in unknown.err

    small = {"method": "leave_one_out", "evaluate": {"alphas": 0.5, "draws": 5}}
    run = ["run", write_config(model={"name": NAME, "host": "torch"}, **small), "--out"]
    (snapshot,) = (cache / "hub").glob("models--*/snapshots/*")
    tokenizer, weights = [snapshot / name for name in TOKENIZER_FILES], snapshot / "model.safetensors"
    ran, counted, refused, gone = hub.call(
        [*run, tmp_path / "whole"],
        ["remove", *tokenizer],
        count,
        [*run, tmp_path / "without tokenizer"],
        ["remove", weights],
        count,
        cache=cache,
        HF_HUB_OFFLINE="1",
    )
    assert ran.code == 0, ran.err
    assert (counted.code, counted.out) == (0, fetched.out), counted.err
    assert (refused.code, gone.code) == (2, 2)
    assert f"the data are texts, and the local Hugging Face cache holds none of {NAME}" in refused.err
    assert "the hub is not asked, because HF_HUB_OFFLINE is set" in refused.err
    assert f"'{NAME}' is in the local Hugging Face cache only in part (cannot be loaded:" in gone.err

    with hub.serving(NAME, tiny_directory) as address:  # and what is missing is fetched
        (ran,) = hub.call([*run, tmp_path / "again"], cache=cache, HF_ENDPOINT=address)
    assert ran.code == 0 and all(path.is_file() for path in (*tokenizer, weights)), ran.err


def test_a_model_whose_terms_must_be_accepted(tiny_directory: Path, tmp_path: Path) -> None:
    with hub.serving(NAME, tiny_directory, gated=True) as address:
        (done,) = hub.call(["components", NAME], cache=tmp_path, HF_ENDPOINT=address)
    assert done.code == 2
    assert f"accept them at https://huggingface.co/{NAME}, then type: hf auth login" in done.err


def test_a_hub_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    bundled = ["components", "induction", "--kind", "head"]  # which also imports what the second call needs
    with hub.silent() as address:
        here, away = hub.call(bundled, ["components", NAME], cache=tmp_path, HF_ENDPOINT=address)
    assert here.code == 0, here.err
    assert away.code == 2 and away.err.count("\n") == 1
    assert "the hub cannot be reached (timed out)" in away.err
    assert away.seconds < 25, away  # a download would try for minutes


def test_a_hub_that_cannot_be_reached(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "model_info", offline)
    line = refused("components", "nobody/nothing")
    assert (
        "no bundled model (domains, induction), no directory" in line and "hub cannot be reached (no network)" in line
    )


def test_a_name_that_no_model_can_have(refused: Refused) -> None:
    assert "no directory and not in the local Hugging Face cache, and that is no name of a model" in refused(
        "components", "a/b/c"
    )
