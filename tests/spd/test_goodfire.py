"""Runs of goodfire-ai/spd are read as they are: against equations in float64, on files made from shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ablationlens as al
from ablationlens.spd.forward import GatedModel, Gates
from tests import models
from tests.spd import runs
from tests.spd.runs import KINDS, LOGICAL, toy_run

SIGMOIDS = ("leaky_hard", "hard", "lower_leaky_hard", "upper_leaky_hard", "normal", "swish_hard")


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> al.Adapter:
    folder, _ = runs.run_of(tmp_path_factory.mktemp("run"))
    return al.adapt(al.spd.load_target(folder))


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_spd_requirement_25_factors_and_importances_are_those_of_the_checkpoint(
    tmp_path: Path, kind: str, sigmoid: str
) -> None:
    folder, state = runs.run_of(tmp_path, kind, sigmoid)
    found = al.spd.load(folder)
    assert found.places == tuple(LOGICAL.values())  # in the order of the model
    for path, where in LOGICAL.items():
        name = path.replace(".", "-")
        assert torch.equal(found[where].V, state[f"_components.{name}.V"])
        assert torch.equal(found[where].U, state[f"_components.{name}.U"])
    inputs = {
        where: 2 * torch.randn(4, 5, found[where].V.shape[0], generator=torch.Generator().manual_seed(3)).double()
        for where in found.places
    }
    importances = found.double().importances_of(inputs)
    for path, where in LOGICAL.items():
        raw = runs.raw_importances(state, path, kind, inputs[where])
        assert (raw < 0).any() and (raw > 1).any()  # both ends of the sigmoid are seen
        torch.testing.assert_close(importances[where].lower, runs.lower(sigmoid, raw), rtol=0, atol=1e-12)
        torch.testing.assert_close(importances[where].upper, runs.upper(sigmoid, raw), rtol=0, atol=1e-12)


def test_spd_requirement_25_a_shared_function_without_hidden_layers(tmp_path: Path) -> None:
    target = runs.llama_simple().state_dict()
    state = runs.whole_state(target, runs.random_parts(target, runs.COUNTS, "shared_mlp", hidden=[]))
    found = al.spd.load(runs.write(tmp_path, state, runs.config_of("shared_mlp", ci_fn_hidden_dims=[]))).double()
    x = torch.randn(3, 16).double()
    raw = runs.raw_importances(state, "h.0.attn.q_proj", "shared_mlp", x)
    torch.testing.assert_close(found[0, "attn.q"].importance(x), raw, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_spd_requirement_25_masked_logits_are_those_of_the_equations(
    tmp_path: Path, kind: str, bridge: al.Adapter
) -> None:
    """Masks from importances, with and without the remainder, in every decomposed module at once."""
    folder, state = runs.run_of(tmp_path, kind)
    found, batch = al.spd.load(folder, bridge), runs.tokens()
    importances = found.importances(bridge, al.batch(batch))
    for kept in (0.0, 1.0, 0.3):
        masks = {
            path: (importances[where].double(), torch.full(batch.shape, kept).double())
            for path, where in LOGICAL.items()
        }
        expected = runs.masked_logits(state, masks, batch)
        gates = {where: Gates(importances[where], torch.full((*batch.shape, 1), kept)) for where in LOGICAL.values()}
        with torch.no_grad(), GatedModel(bridge, found).session() as own:
            logits = own.gated(al.batch(batch), gates)
        torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-5)
        assert (expected - runs.masked_logits(state, {}, batch)).abs().max() > 0.1


def test_the_importances_are_those_of_the_models_own_inputs(tmp_path: Path, bridge: al.Adapter) -> None:
    folder, state = runs.run_of(tmp_path)
    found, batch = al.spd.load(folder, bridge), runs.tokens()
    model, seen = runs.llama_simple().double(), {}
    for path in LOGICAL:

        def note(_: Any, args: Any, path: str = path) -> None:
            seen[path] = args[0]

        model.get_submodule(path).register_forward_pre_hook(note)
    model(batch)
    importances = found.importances(bridge, al.batch(batch))
    for path, where in LOGICAL.items():
        raw = runs.raw_importances(state, path, "vector_mlp", seen[path])
        torch.testing.assert_close(importances[where].double(), raw.clamp(0, 1), rtol=0, atol=1e-5)


def test_the_provenance_says_where_it_comes_from(tmp_path: Path) -> None:
    folder, _ = runs.run_of(tmp_path / "secret")
    found = al.spd.load(folder).provenance
    assert (found["from"], found["file"], found["step"]) == ("goodfire-ai/spd", "model_500.pth", 500)
    assert found["config"]["ci_fn_hidden_dims"] == [6, 3]
    assert found["paths"]["L1.mlp.out"] == "h.1.mlp.down_proj"
    assert "secret" not in str(found)


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    folder, _ = runs.run_of(tmp_path)
    before = torch.random.get_rng_state()
    al.spd.load(folder)
    al.spd.load_target(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_spd_requirement_26_the_sigmoid_of_the_run_is_honoured(tmp_path: Path) -> None:
    """Left out, it is the one that goodfire-ai/spd takes by default."""
    folder, state = runs.run_of(tmp_path)
    found = {}
    for sigmoid in ("normal", "hard", None):
        config = runs.config_of(sigmoid=sigmoid) if sigmoid else runs.config_of()
        config = config if sigmoid else {key: value for key, value in config.items() if key != "sigmoid_type"}
        decomposition = al.spd.load(runs.write(folder, state, config))
        found[sigmoid] = decomposition.squashed(torch.tensor([-1.0, 0.5, 2.0])).upper.tolist()
    assert found["hard"] == [0, 0.5, 1]
    assert found[None] == pytest.approx([0, 0.5, 1.01])
    assert found["normal"] == pytest.approx([0.2689414, 0.6224593, 0.8807971])


def test_spd_requirement_26_embeddings_and_identities_are_read_or_left_out_by_name(tmp_path: Path) -> None:
    target = runs.llama_simple().state_dict()
    counts = {"wte": 3, "h.0.attn.q_proj": 5, "h.0.attn.q_proj.pre_identity": 4}
    parts = runs.random_parts(target, {k: v for k, v in counts.items() if k != "wte"}, "mlp")
    parts |= runs.random_parts(target, {"wte": 3}, "mlp", transposed=True)  # V [vocab, C], U [C, width]
    config = runs.config_of("mlp", patterns=[("wte", 3), ("h.0.attn.q_proj", 5)])
    config["identity_module_info"] = [{"module_pattern": "h.0.attn.q_proj", "C": 4}]
    folder = runs.write(tmp_path, runs.whole_state(target, parts), config)
    found = al.spd.load(folder)
    assert found.places == ((0, "embed"), (0, "attn.q.pre_identity"), (0, "attn.q"))
    assert torch.equal(found[0, "embed"].V, parts["_components.wte.V"])
    found = al.spd.load(folder, skip=["wte", "*.pre_identity"])
    assert found.places == ((0, "attn.q"),)
    assert sorted(found.provenance["skipped"]) == ["h.0.attn.q_proj.pre_identity", "wte"]
    assert torch.equal(found[0, "attn.q"].V, parts["_components.h-0-attn-q_proj.V"])
    with pytest.raises(al.InputError, match="skip='wpe' is no decomposed module"):
        al.spd.load(folder, skip="wpe")
    with pytest.raises(al.InputError, match="every module"):
        al.spd.load(folder, skip="*")
    parts["_components.h-0-attn-q_proj-pre_identity.U"] = torch.zeros(4, 7)
    runs.write(tmp_path, runs.whole_state(target, parts), config)
    with pytest.raises(al.StoreError, match="no identity"):
        al.spd.load(folder, skip="wte")


def test_spd_requirement_26_conv1d_is_transposed(tmp_path: Path) -> None:
    """GPT-2 keeps [in, out]; factors are of the mathematical matrix all the same. Checked by an edited weight."""
    model = models.gpt2()
    target = model.state_dict()
    counts = {"transformer.h.0.attn.c_attn": 3, "transformer.h.1.mlp.c_fc": 4, "transformer.h.1.attn.c_proj": 2}
    parts = runs.random_parts(target, counts, "mlp", transposed=True)
    config = runs.config_of("mlp", patterns=list(counts.items()))
    folder = runs.write(tmp_path, runs.whole_state(target, parts), config)
    adapter = al.adapt(model)
    found = al.spd.load(folder, adapter)
    assert found.places == ((0, "attn.qkv"), (1, "attn.o"), (1, "mlp.in"))
    assert al.spd.load(folder).places == found.places  # by the table of families
    registry, batch = found.registry(adapter), models.inputs_of("gpt2", 2)
    masked = al.MaskedModel(adapter, registry)
    mask = masked.mask(["L0.attn.qkv rank_one 1", "L1.mlp.in rank_one 0"])
    V, U = parts["_components.transformer-h-1-mlp-c_fc.V"], parts["_components.transformer-h-1-mlp-c_fc.U"]
    whole = [parts[f"_components.transformer-h-0-attn-c_attn.{name}"] for name in "VU"]
    edited = models.gpt2()
    with torch.no_grad():
        plain = edited(batch).logits
        edited.transformer.h[1].mlp.c_fc.weight -= torch.outer(V[:, 0], U[0])
        edited.transformer.h[0].attn.c_attn.weight -= torch.outer(whole[0][:, 1], whole[1][1])
        expected = edited(batch).logits
        found_logits = masked.logits(mask, al.batch(batch))
    torch.testing.assert_close(found_logits, expected, rtol=0, atol=1e-5)
    assert (plain - expected).abs().max() > 1e-2


def test_a_model_with_other_weights_or_modules_is_refused(tmp_path: Path, bridge: al.Adapter) -> None:
    folder, state = runs.run_of(tmp_path / "run")
    assert al.spd.load(folder, bridge).fingerprint == al.spd.load(folder).fingerprint
    runs.write(folder, {**state, "target_model.h.1.attn.q_proj.weight": torch.zeros(16, 16)}, runs.config_of())
    with pytest.raises(al.InputError, match="the weight of L1.attn.q in this model is not that of h.1.attn.q_proj"):
        al.spd.load(folder, bridge)
    deeper = runs.llama_simple(n_layer=3)
    counts = {"h.2.attn.q_proj": 3, "h.0.attn.q_proj": 3}
    with pytest.raises(al.InputError, match="h.2.attn.q_proj: this model has no such modules"):
        al.spd.load(toy_run(tmp_path / "deeper", deeper, counts), bridge)


def test_an_embedding_of_positions_is_left_out_by_name(tmp_path: Path) -> None:
    model = models.gpt2()
    target = model.state_dict()
    counts = {"transformer.wpe": 3, "transformer.h.1.mlp.c_fc": 4}
    parts = runs.random_parts(target, counts, "mlp", transposed=True)
    config = runs.config_of("mlp", patterns=list(counts.items()))
    folder = runs.write(tmp_path, runs.whole_state(target, parts), config)
    with pytest.raises(al.InputError, match=r"transformer.wpe: this model has no such modules to cut.*skip="):
        al.spd.load(folder, al.adapt(model))
    assert al.spd.load(folder, al.adapt(model), skip="*.wpe").places == ((1, "mlp.in"),)
