"""The configuration of a run of goodfire-ai/spd: of every version, and held against the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ablationlens as al
from tests.spd import runs


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"module_info": [{"module_pattern": "h.*.attn.q_proj", "C": 5}]}, "h-0-attn-v_proj.V is one too many"),
        ({"module_info": [{"module_pattern": "h.*.attn.*_proj", "C": 5}]}, "h-0-attn-k_proj.V is missing"),
        ({"module_info": [{"module_pattern": p, "C": C + 1} for p, C in runs.PATTERNS]}, "says 6"),
        ({"module_info": [{"module_pattern": p, "C": 0} for p, C in runs.PATTERNS]}, "C is the number"),
        ({"module_info": [{"pattern": "h.*"}]}, "module_info is a list of"),
        ({"module_info": []}, "lacks module_info"),
        ({"module_info": [{"module_pattern": "h.*.attn.q_proj", "C": C} for C in (5, 6)]}, "5 and 6 components"),
        ({"ci_fn_type": "mlp"}, r"layers\.0\.W has shape"),
        ({"ci_fn_type": "shared_mlp"}, r"layers\.0\.W has shape"),
        ({"ci_fn_type": "bigger_mlp"}, "ci_fn_type is 'bigger_mlp'"),
        ({"ci_fn_hidden_dims": [6]}, r"layers\.4\.W is one too many"),
        ({"ci_fn_hidden_dims": [6, 4]}, r"layers\.2\.W has shape"),
        ({"ci_fn_hidden_dims": "6"}, "list of widths"),
        ({"sigmoid_type": "soft"}, "sigmoid_type is 'soft'"),
        ({"sigmoid_type": ["hard"]}, r"sigmoid_type is \['hard'\]"),
        ({"ci_fn_type": ["mlp"]}, r"ci_fn_type is \['mlp'\]"),
        ({"target_module_patterns": 5}, "target_module_patterns is a list of patterns of module paths; got 5"),
        ({"target_module_patterns": "h.*"}, "is a list of patterns of module paths; got 'h"),
    ],
)
def test_a_configuration_that_contradicts_the_checkpoint_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder, state = runs.run_of(tmp_path)
    runs.write(folder, state, {**runs.config_of(), **config})
    with pytest.raises(al.StoreError, match=message):
        al.spd.load(folder)


def test_spd_requirement_26_settings_of_other_versions(tmp_path: Path) -> None:
    target = runs.llama_simple().state_dict()
    counts = dict.fromkeys(runs.COUNTS, 5)
    state = runs.whole_state(target, runs.random_parts(target, counts, "mlp"))
    patterns = [(pattern, 5) for pattern, _ in runs.PATTERNS]
    now = runs.config_of("mlp", "normal", patterns=patterns)
    expected = al.spd.load(runs.write(tmp_path / "now", state, now))
    plain = {key: value for key, value in now.items() if not key.startswith(("ci_fn", "module_info", "identity"))}
    first = {
        **plain,
        "C": 5,
        "target_module_patterns": [pattern for pattern, _ in patterns],
        "gate_type": "mlp",
        "gate_hidden_dims": [6],
        "pretrained_model_name_hf": None,
        "pretrained_model_class": "simple_stories_train.models.llama_simple_mlp.LlamaSimpleMLP",
    }
    dev = {
        **plain,
        "module_info": now["module_info"],
        "ci_config": {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [6]},
    }
    for name, config in {"first": first, "dev": dev}.items():
        found = al.spd.load(runs.write(tmp_path / name, state, config))
        assert (found.fingerprint, found.sigmoid) == (expected.fingerprint, "normal")
