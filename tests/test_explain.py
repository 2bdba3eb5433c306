"""Explanations say where a component is stored, which a look at the parameters confirms."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
from tests import models, own_sites
from tests.conftest import Host, host_of
from tests.families import model_of

GPT2, LLAMA = host_of("torch", "gpt2"), host_of("torch", "llama")


def stored_weight(model: Any, explanation: al.Explanation) -> Tensor:
    """The parameter rows or columns that an explanation names, read off the module at its path."""
    path = re.search(r"(?:input|output) of ([\w.]+),", explanation["place"])
    assert path is not None
    weight = model.get_submodule(path[1]).weight
    shape = re.search(r"= (\[[\d, ]+\]): there (row|column)s? ([\d]+)(?: (?:to|and) (\d+))?$", explanation["weight"])
    assert shape is not None, explanation["weight"]
    assert shape[1] == str(list(weight.shape))
    span = slice(int(shape[3]), int(shape[4] or shape[3]) + 1)
    return weight[span] if shape[2] == "row" else weight[:, span]


@pytest.mark.parametrize("host", [GPT2, LLAMA], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "L1.head 2",
        "L0.attn.k row 9",
        "L1.attn.v rows 8-15",
        "L0.attn.q head 3",
        "L1.attn.v head 1",
        "L0.mlp.in",
        "L1.neuron 7",
        "L0.mlp.out column 5",
    ],
)
def test_the_stored_rows_or_columns_are_those_that_an_ablation_zeroes(host: Host, name: str) -> None:
    """Zeroing what the explanation points at gives the model that zero ablation runs."""
    explanation = al.explain(name, host.adapter)
    kinds = {"L0.mlp.in": "matrix", "L1.attn.v rows 8-15": "row_block"}
    kinds |= {"L0.attn.q head 3": "head_query", "L1.attn.v head 1": "head_value"}
    kind = kinds.get(name) or next(one for one in ("head", "row", "neuron", "column") if f"{one} " in name)
    registry = host.adapter.registry(kind, size=8 if kind == "row_block" else None)
    assert explanation.title == name
    reference = host.reference
    component = registry[registry.column(name)]
    if "head_" in kind:  # rows of a projection
        rows = host.adapter.registry("row_block", size=8)
        first = 8 * component.index
        component = rows[rows.column(f"L{component.site.layer}.{component.site.module} rows {first}-{first + 7}")]
    by_weights = models.edited(reference, [component])
    by_text = models.untied(reference)
    with torch.no_grad():
        stored_weight(by_text, explanation).zero_()
    for (_, one), (_, other) in zip(by_weights.named_parameters(), by_text.named_parameters(), strict=True):
        assert torch.equal(one, other)
    assert any(
        not torch.equal(a, b) for a, b in zip(by_text.parameters(), models.untied(reference).parameters(), strict=True)
    )


def test_a_row_of_a_fused_matrix() -> None:
    text = str(al.explain("L1.attn.k row 9", GPT2.adapter))
    assert text.splitlines()[0] == "L1.attn.k row 9"
    for part in (
        "output feature 9 of attn.k",
        "torch, GPT2LMHeadModel",
        "output of transformer.h.1.attn.c_attn, a Conv1D",
        "[batch, position, 96 features]: feature 41",
        "attn.k, 32 x 32 (out x in), part of the fused attn.qkv, stored by a Conv1D as [in, out] = [32, 96]: there "
        "column 41",
    ):
        assert part in text
    bias = float(GPT2.reference.transformer.h[1].attn.c_attn.bias[32 + 9].detach())
    found = al.explain("L1.attn.k row 9", GPT2.adapter)
    assert found["Zero()"] == f"its bias, {bias:.4g}, as if row 9 of the weight were 0"
    assert found["Zero(include_bias=True)"] == "0"
    assert repr(found) == text


def test_what_happens_to_the_bias() -> None:
    biased = host_of("torch", "llama_biased").adapter
    assert "no bias" in al.explain("L0.mlp.in row 3", LLAMA.adapter)["Zero()"]
    assert "their biases" in al.explain("L0.mlp.in rows 0-7", biased)["Zero()"]
    assert "the bias stays, with include_bias=True as well" in al.explain("L0.head 1", biased)["Zero()"]
    assert "bias" not in al.explain("L0.head 1", LLAMA.adapter)["Zero()"]
    parts = biased.registry("rank_one", svd=2, modules=["mlp.in"], layers=0)
    assert al.explain(parts[0], biased)["Zero()"].endswith("the bias stays")
    with pytest.raises(al.UnknownNameError, match=r"no fact 'Zero\(include_bias=True\)'"):
        al.explain(parts[0], biased)["Zero(include_bias=True)"]
    assert "takes the bias with it" in al.explain(parts[2], biased)["Zero(include_bias=True)"]
    assert "leave over" in al.explain(parts[2], biased)["what"]


def test_an_identity_before_a_module_is_stored_nowhere() -> None:
    identity = LLAMA.adapter.registry("rank_one", svd=2, modules=["attn.o.pre_identity"], layers=1)
    part, rest = (al.explain(identity[index], LLAMA.adapter) for index in (0, 2))
    assert part["place"].startswith("input of ")
    assert part["weight"] == (
        "attn.o.pre_identity, 32 x 32 (out x in), of an identity put before attn.o: no module of the model holds it"
    )
    assert part["Zero()"] == "the matrix without the part"
    assert rest["what"].endswith("leave over, I - (V @ U).T")


def test_grouped_query_attention_says_which_heads_share() -> None:
    head = al.explain("L0.head 3", LLAMA.adapter)
    assert head["attention"] == "reads key/value head 1, which feeds query heads 2 and 3 (4 query heads share 2)"
    row = al.explain("L0.attn.v row 3", LLAMA.adapter)
    assert row["attention"] == "key/value head 0, which feeds query heads 0 and 1; there are 2, of 8 rows each"
    block = al.explain("L0.attn.k rows 0-15", LLAMA.adapter)
    assert block["attention"].startswith("key/value heads 0 and 1, which feed query heads 0 to 3")
    assert al.explain("L0.attn.q row 25", LLAMA.adapter)["attention"] == "head 3 of 4, 8 rows each"
    assert al.explain("L0.attn.k row 25", GPT2.adapter)["attention"] == "head 3 of 4, 8 rows each"
    value = al.explain("L1.attn.v head 1", LLAMA.adapter)
    assert value["what"] == "the values of key/value head 1: output features 8 to 15 of attn.v"
    assert value["attention"] == "key/value head 1, which feeds query heads 2 and 3; there are 2, of 8 rows each"
    query = al.explain("L1.attn.q head 2", LLAMA.adapter)
    assert query["what"] == "the queries of head 2: output features 16 to 23 of attn.q"
    assert query["attention"] == "head 2 of 4, 8 rows each"
    with pytest.raises(al.UnknownNameError, match="no fact 'attention'"):
        al.explain("L0.mlp.in row 3", LLAMA.adapter)["attention"]


def test_heads_of_projections_in_two_stacks_and_in_registries() -> None:
    t5 = al.adapt(model_of("t5"))
    found = al.explain("L1.encoder.attn.v head 2", t5)
    assert found["place"].startswith("output of encoder.block.1.layer.0.SelfAttention.v,")
    assert found["attention"] == "head 2 of 4, 6 rows each"
    cross = al.explain("L2.decoder.cross.q head 0", t5)
    assert cross["place"].startswith("output of decoder.block.2.layer.1.EncDecAttention.q,")
    assert al.explain("L1.encoder.attn head 2", t5)["what"].startswith("query head 2")
    for registry in (LLAMA.adapter.registry(["head", "head_query"]), LLAMA.adapter.registry("head_value")):
        for adapter in (None, LLAMA.adapter):
            text = str(al.explain(registry, adapter))
            assert "the queries of a head" in text or "the values of a key/value head" in text
    site = LLAMA.adapter.registry("head_value").parts[0].site
    assert al.explain(site, LLAMA.adapter).title == "L0.attn.v head 0 to L0.attn.v head 1, 2 components"


def test_hook_points_of_a_bridge() -> None:
    adapter = host_of("transformer_lens", "gpt2").adapter
    text = str(al.explain("L1.attn.k row 9", adapter))
    assert "hook point blocks.1.attn.k.hook_out" in text
    assert "transformer_lens, TransformerBridge" in text
    assert "stored by a Linear as [out, in] = [32, 32]: there row 9" in text
    z = adapter.registry(al.custom_site("z", {"transformer_lens": "blocks.0.attn.hook_z"}, axis=2))
    assert al.explain(z[1], adapter)["activation"] == "[batch, position, 4 features, 8]: feature 1"
    pattern = al.custom_site("pattern", {"transformer_lens": "blocks.0.attn.hook_pattern"}, axis=1)
    assert al.explain(pattern, adapter)["activation"] == "[batch, 4 features, query, key]: features 0 to 3"


def test_a_projection_of_a_fused_matrix_is_read_in_one_place_and_written_in_another() -> None:
    in_torch = GPT2.adapter.registry("column", modules=["q"])
    found = al.explain(in_torch[5], GPT2.adapter)
    assert found["what"].startswith("what input feature 5 contributes to attn.q alone")
    assert found["reads"] == "the input of that module"
    assert found["activation"] == "[batch, position, 96 features]: features 0 to 31"
    bridge = host_of("transformer_lens", "gpt2").adapter  # where each projection has an input of its own
    assert "blocks.0.attn.q.hook_in" in al.explain(in_torch[5], bridge)["place"]


def test_sites_of_ones_own() -> None:
    site = own_sites.residual("gpt2")
    asked = al.explain(site)
    assert asked["in torch"] == "transformer.h.0"
    assert asked["in transformer_lens"] == "blocks.0.hook_resid_post"
    assert asked["more"].endswith("al.explain(site, adapter)")
    whole = al.explain(site, GPT2.adapter)
    assert whole.title == "L0.resid_post 0 to L0.resid_post 7, 8 components"
    one = al.explain(GPT2.adapter.registry(site)[2], GPT2.adapter)
    assert one["place"] == "output of transformer.h.0, a GPT2Block"
    assert one["activation"] == "[batch, position, 32 features]: features 8 to 11"
    assert "no bias that could stay" in one["Zero()"]
    codes = GPT2.adapter.registry(own_sites.latents("gpt2"))
    found = al.explain(codes[2], GPT2.adapter)
    assert found["what"].startswith("code 4 of a Dictionary")
    assert "error term, stays" in found["what"]
    assert found["basis"] == "Dictionary(32 features, 20 ReLU codes)"
    elsewhere = al.custom_site(
        "latent",
        {"torch": "transformer.h.0.mlp.input"},
        basis=own_sites.autoencoder(),
        write={"torch": "transformer.h.0.mlp"},
    )
    moved = al.explain(elsewhere, GPT2.adapter)
    assert moved["reads"] == "input of transformer.h.0.mlp, a GPT2MLP, [batch, position, 32 features]"
    assert moved["place"].startswith("output of transformer.h.0.mlp,")


def test_names_in_a_masked_model_and_registries() -> None:
    registry = GPT2.adapter.registry(["head", own_sites.residual("gpt2")])
    model = al.MaskedModel(GPT2.adapter, registry)
    assert str(al.explain("L0.resid_post 2", model)) == str(al.explain(registry[10], GPT2.adapter))
    with pytest.raises(al.UnknownNameError, match=r"did you mean .*L0\.resid_post"):
        al.explain("L0.resid_pst 2", model)
    for adapter in (None, GPT2.adapter, model):
        text = str(al.explain(registry, adapter))
        assert text.splitlines()[0] == "Registry of 16 components"
        assert "a query head" in text
        assert "8 in layer 0" in text
        assert ("transformer.h.0.attn.c_proj" in text) == (adapter is not None)
    assert al.explain(registry.parts[0].site, GPT2.adapter).title == "L0.head 0 to L0.head 3, 4 components"


def test_without_a_model_there_is_what_names_say() -> None:
    found = al.explain("L5.head 2")
    assert found["what"] == "a query head, cut where the output projection of the attention reads it"
    assert found["more"] == "where it is in a model: al.explain('L5.head 2', adapter)"
    assert al.explain("L5.attn.q head 2")["what"] == "the queries of a head, cut where attn.q writes them"
    assert al.explain("L5.encoder.attn.v head 2")["what"].startswith("the values of a key/value head")
    assert al.explain("L5.encoder.attn head 2")["what"].startswith("a query head")
    component = GPT2.adapter.registry("head")[1]
    assert al.explain(component)["what"] == "query head 1: input features 8 to 15 of the output projection attn.o"
    images = host_of("torch", "convnet").adapter
    assert al.explain("L0.first filter 2", images)["activation"] == "[batch, 6 features, 8, 8]: feature 2"
    assert "[out, in, ...] = [6, 3, 3, 3]: there row 2" in al.explain("L0.first filter 2", images)["weight"]


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("head 3", "is no name of a component"),
        ("L0.mlp.in remainder", "does not say its factors"),
        ("L0.resid_post 3", "does not say its hook point"),
        ("L0.head 4", "did you mean L0.head"),
        ("L0.attn.q head 4", "L0.attn.q head goes from 0 to 3; did you mean"),
        ("L0.attn.k head 1", "did you mean"),
        ("L0.attn.qq row 4", "no module 'attn.qq'"),
        ("L7.head 1", "0 to 1"),
        (3, "a component, a site, a registry or a name"),
    ],
)
def test_what_cannot_be_explained(what: object, match: str) -> None:
    with pytest.raises(al.InputError, match=match):
        al.explain(what, GPT2.adapter)


def test_a_model_that_was_not_adapted() -> None:
    from ablationlens.explain import explain

    with pytest.raises((al.InputError, TypeError), match="al.adapt|adapter"):
        explain("L0.head 1", GPT2.reference)
