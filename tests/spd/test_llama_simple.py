"""The target of a run as a bridge: its logits against the same model in plain PyTorch, written independently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import ablationlens as al
from tests.spd import runs

VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one key head": {"n_key_value_heads": 1},
    "a key head each": {"n_key_value_heads": 4},
    "fused": {"use_grouped_query_attention": False, "n_key_value_heads": 2},
    "biases": {"attn_bias": True, "mlp_bias": True},
    "fused with biases": {"use_grouped_query_attention": False, "attn_bias": True},
    "other base and eps": {"rotary_base": 50, "rms_norm_eps": 0.1},
    "another rotary_dim, which the model does not heed": {"rotary_dim": 2},
}


def written(folder: Path, **settings: Any) -> Path:
    """A run on a model of these settings, with its model_config.yaml."""
    target = runs.llama_simple(**settings).state_dict()
    parts = runs.random_parts(target, {"h.1.mlp.down_proj": 3}, "mlp")
    runs.write(folder, runs.whole_state(target, parts), runs.config_of("mlp", patterns=[("h.1.mlp.down_proj", 3)]))
    (folder / "model_config.yaml").write_text(yaml.safe_dump({**runs.SETTINGS, **settings}))
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bridge_has_the_models_logits(tmp_path: Path, variant: str) -> None:
    settings = VARIANTS[variant]
    bridge = al.spd.load_target(written(tmp_path, **settings))
    batch = runs.tokens(4, 12)  # its whole context
    expected = runs.llama_simple(**settings).double()(batch)[0]
    with torch.no_grad():
        found = bridge(batch)
    assert type(bridge).__name__ == "TransformerBridge"
    assert not bridge.training
    assert expected.std() > 0.5
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_every_setting_that_is_tried_changes_the_logits() -> None:
    """Otherwise the test above would show nothing of it."""
    batch, plain = runs.tokens(4, 12), runs.llama_simple()
    for settings in ({"rotary_base": 50}, {"rms_norm_eps": 0.1}):
        other = runs.llama_simple(**settings)
        assert (other(batch)[0] - plain(batch)[0]).abs().max() > 0.01


def test_components_fit_the_bridge_of_their_target(tmp_path: Path) -> None:
    """All kept is the model itself, bit for bit; one gone is the edited weight."""
    folder = written(tmp_path)
    bridge = al.spd.load_target(folder)
    adapter = al.adapt(bridge)
    found = al.spd.load(folder, adapter)
    assert adapter.layout.names == ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.out")
    registry, batch = found.registry(adapter), runs.tokens()
    model = al.MaskedModel(adapter, registry)
    with torch.no_grad():
        assert torch.equal(model.logits(torch.ones(1, len(registry)), al.batch(batch)), bridge(batch))
        mask = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
        edited = runs.llama_simple().double()
        part = found[1, "mlp.out"]
        edited.h[1].mlp.down_proj.weight -= torch.outer(part.U[1], part.V[:, 1])
        torch.testing.assert_close(
            model.logits(mask, al.batch(batch)).double(), edited(batch)[0].double(), rtol=0, atol=1e-5
        )


def test_the_patterns_are_the_models_own(tmp_path: Path) -> None:
    adapter = al.adapt(al.spd.load_target(written(tmp_path)))
    patterns = adapter.patterns(al.batch(runs.tokens(2, 7)))
    assert [tuple(pattern.shape) for pattern in patterns.values()] == [(2, 4, 7, 7)] * 2
    torch.testing.assert_close(patterns[0].sum(-1), torch.ones(2, 4, 7))


def test_the_context_is_the_shorter_of_the_two(tmp_path: Path) -> None:
    adapter = al.adapt(al.spd.load_target(written(tmp_path, block_size=12, n_ctx=10)))
    with pytest.raises(al.InputError, match="context of 10"):
        adapter.check_data(al.batch(runs.tokens(1, 11)))


def test_the_run_that_trained_the_model_itself(tmp_path: Path) -> None:
    """``model_step_<n>.pt`` in a folder of its own, the settings in the folder above."""
    model, batch = runs.llama_simple(), runs.tokens()
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(runs.SETTINGS))
    torch.save(runs.llama_simple(seed=1).state_dict(), folder / "model_step_9.pt")
    torch.save(model.state_dict(), folder / "model_step_10.pt")
    with torch.no_grad():
        torch.testing.assert_close(al.spd.load_target(folder)(batch), model(batch)[0], rtol=0, atol=1e-5)


def test_settings_may_be_given(tmp_path: Path) -> None:
    folder, batch = written(tmp_path / "run"), runs.tokens()
    expected = al.spd.load_target(folder)(batch)
    moved = (folder / "model_config.yaml").rename(tmp_path / "elsewhere.yaml")
    with pytest.raises(al.StoreError, match=r"no model_config.yaml.*config='"):
        al.spd.load_target(folder)
    older = {key: value for key, value in runs.SETTINGS.items() if key != "model_type"}
    for config in (moved, str(moved), runs.SETTINGS, older):
        assert torch.equal(al.spd.load_target(folder, config=config)(batch), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layer": 3}, "h.2.rms_1.weight of the target model is missing"),
        ({"n_layer": 1}, "h.1.rms_1.weight is one too many"),
        ({"n_embd": 8}, "wte.weight has shape"),
        ({"vocab_size": 30}, r"wte.weight has shape \[29, 16\], and the settings say \[30, 16\]"),
        ({"n_intermediate": 24}, "c_fc.weight has shape"),
        ({"n_key_value_heads": 1}, "k_proj.weight has shape"),
        ({"n_key_value_heads": 3}, "16 features are not 4 heads that share 3"),
        ({"attn_bias": True}, "q_proj.bias of the target model is missing"),
        ({"use_grouped_query_attention": False}, "c_attn.weight of the target model is missing"),
        ({"n_head": None}, "lack n_head"),
        ({"n_head": 0}, "n_head of the target is a number above 0; its settings say 0"),
        ({"n_head": "4"}, "its settings say '4'"),
        ({"n_key_value_heads": 0}, "n_key_value_heads of the target is a number above 0"),
        ({"block_size": -3}, "block_size of the target is a number above 0; its settings say -3"),
        ({"rotary_base": "x"}, "rotary_base of the target is a number above 0; its settings say 'x'"),
        ({"n_ctx": "x"}, "n_ctx of the target is a number above 0"),
        ({"n_key_value_heads": None}, "lack n_key_value_heads"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    folder = written(tmp_path)
    with pytest.raises(al.StoreError, match=message):
        al.spd.load_target(folder, config={**runs.SETTINGS, **settings})


def test_other_models_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    with pytest.raises(al.InputError, match="is a GPT2Simple"):
        al.spd.load_target(folder, config={**runs.SETTINGS, "model_type": "GPT2Simple"})
    with pytest.raises(al.InputError, match="rotary_adjacent_pairs"):
        al.spd.load_target(folder, config={**runs.SETTINGS, "rotary_adjacent_pairs": True})


def test_spd_requirement_26_a_head_that_is_not_tied_is_refused(tmp_path: Path) -> None:
    target = {name: value.clone() for name, value in runs.llama_simple().state_dict().items()}
    target["lm_head.weight"][0, 0] += 1
    parts = runs.random_parts(target, {"h.1.mlp.down_proj": 3}, "mlp")
    config = runs.config_of("mlp", patterns=[("h.1.mlp.down_proj", 3)])
    folder = runs.write(tmp_path, runs.whole_state(target, parts), config)
    with pytest.raises(al.StoreError, match="wte.weight and lm_head.weight differ"):
        al.spd.load_target(folder)
