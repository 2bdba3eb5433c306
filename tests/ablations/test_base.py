"""What ablations share: chunks of examples, activations of all of them, refusals of data that does not line up."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from ablationlens.ablations.base import ROWS, chunks, read_examples, same_padding, same_shape, stream
from ablationlens.adapters.plan import Plan
from ablationlens.sites import Tap
from tests import models


def test_chunks_are_the_examples_in_order() -> None:
    data = al.batch(torch.arange(2 * (ROWS + 3)).view(ROWS + 3, 2))
    parts = list(chunks(data))
    assert [len(part) for part in parts] == [ROWS, 3]
    assert torch.equal(torch.cat([part.inputs["input_ids"] for part in parts]), data.inputs["input_ids"])


def test_activations_of_all_examples_are_those_of_a_plain_hook() -> None:
    model = models.gpt2()
    adapter = al.adapt(model)
    data = al.batch(models.inputs_of("gpt2", ROWS + 2))
    seen: list[torch.Tensor] = []
    handle = model.transformer.h[1].mlp.c_fc.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    with torch.no_grad():
        model(data.inputs["input_ids"])
    handle.remove()
    plan = Plan(adapter, adapter.registry("row", layers=[1], modules=["mlp.in"]))
    found = read_examples(plan, data)
    assert set(found) == {Tap(1, "mlp.in", "out")}
    assert torch.allclose(found[Tap(1, "mlp.in", "out")], seen[0], atol=1e-6)


def test_data_that_does_not_line_up_is_refused() -> None:
    short, long = al.batch(torch.ones(2, 3, dtype=torch.long)), al.batch(torch.ones(2, 5, dtype=torch.long))
    same_shape(short, short, "a counterfactual")
    with pytest.raises(al.InputError, match=r"3 positions expected, got 5; make them with data\.like"):
        same_shape(short, long, "a counterfactual")
    ours, theirs = torch.tensor([[True, True]]), torch.tensor([[False, True]])
    same_padding(ours, ours.clone(), "resampling")
    same_padding(None, theirs, "resampling")
    with pytest.raises(al.InputError, match="resampling needs the same padding"):
        same_padding(ours, theirs, "resampling")


def test_every_site_has_a_stream_of_its_own() -> None:
    taps = [Tap(layer, module, "out") for layer in (0, 1) for module in ("attn.q", "attn.k")]
    assert len({stream("noise", tap) for tap in taps} | {stream("resample", tap) for tap in taps}) == 8
