"""Batches for a model of two stacks: labels, scored positions and lengths are those of the decoder."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from tests import families
from tests.families import FAMILIES, model_of

T5 = FAMILIES["t5"]


def inputs(examples: int = 3) -> dict[str, torch.Tensor]:
    return T5.batch(examples)  # 6 tokens for the encoder, 5 for the decoder


def test_labels_are_the_next_tokens_of_the_decoder() -> None:
    data = al.batch(inputs())
    decoded = inputs()["decoder_input_ids"]
    assert data.length == 5
    assert data.labels is not None
    assert data.scored is not None
    assert torch.equal(data.labels[:, :-1], decoded[:, 1:])
    assert data.labels[:, -1].tolist() == [-100] * 3
    assert data.scored.sum().item() == 3 * 4
    given = torch.randint(0, families.VOCAB, (3, 5))
    assert torch.equal(al.batch(inputs(), labels=given).labels, given)  # type: ignore[arg-type]
    with pytest.raises(al.InputError, match=r"labels have shape \[3, 6\], the inputs \[3, 5\]"):
        al.batch(inputs(), labels=torch.zeros(3, 6, dtype=torch.long))


def test_each_stack_has_a_padding_of_its_own() -> None:
    mask, decoder_mask = torch.ones(3, 6, dtype=torch.long), torch.ones(3, 5, dtype=torch.long)
    mask[0, 4:], decoder_mask[1, 3:] = 0, 0
    for encoder_mask in ({}, {"attention_mask": mask}):
        data = al.batch({**inputs(), **encoder_mask, "decoder_attention_mask": decoder_mask})
        assert torch.equal(data.attended, decoder_mask.bool())  # type: ignore[arg-type]
        assert torch.equal(data.encoder_attended, (encoder_mask.get("attention_mask", torch.ones(3, 6))).bool())  # type: ignore[arg-type]
        assert data.scored is not None
        assert data.scored.sum(1).tolist() == [4, 2, 4]
    with pytest.raises(al.InputError, match=r"attention_mask has shape \[3, 6\], the inputs are \[3, 5\]"):
        al.batch({**inputs(), "decoder_attention_mask": mask})


def test_the_output_scores_the_decoder() -> None:
    model = model_of("t5")
    adapter, data = al.adapt(model), al.batch(inputs())
    masked = al.MaskedModel(adapter, adapter.registry("head"), output=al.CrossEntropy())
    got = masked.sweep(torch.ones(1, len(masked.registry)), data)[0]
    logits = families.run(model, inputs())[:, :-1].transpose(1, 2)
    loss = torch.nn.functional.cross_entropy(logits, inputs()["decoder_input_ids"][:, 1:], reduction="none").mean(1)
    assert torch.allclose(got.abs(), loss, atol=1e-5)


def test_a_mean_leaves_out_the_padding_of_the_stack_that_it_is_of() -> None:
    """A padded batch has the means of its examples alone."""
    model = model_of("t5")
    adapter = al.adapt(model)
    whole = inputs(2)
    mask, decoder_mask = torch.ones(2, 6, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)
    mask[0, 4:], decoder_mask[0, 3:] = 0, 0
    padded = al.batch({**whole, "attention_mask": mask, "decoder_attention_mask": decoder_mask})
    data = al.batch(inputs(3))
    for kind in ("neuron", "head"):
        registry = adapter.registry(kind)
        plan = al.MaskedModel(adapter, registry).plan
        found = al.Mean(padded).bind(plan, data).values
        for tap, value in found.items():
            rows = []
            for example, (tokens, decoded) in enumerate(((4, 3), (6, 5))):
                alone = al.batch(
                    {
                        "input_ids": whole["input_ids"][example : example + 1, :tokens],
                        "decoder_input_ids": whole["decoder_input_ids"][example : example + 1, :decoded],
                    }
                )
                rows.append(adapter.read(alone, [tap])[tap][0])
            assert torch.allclose(value.flatten(), torch.cat(rows).mean(0), atol=1e-5), tap


def test_counterfactuals_and_unknown_tokens_of_either_stack() -> None:
    adapter = al.adapt(model_of("t5"))
    data = al.batch(inputs(2))
    other = data.like({name: value.flip(0) for name, value in inputs(2).items()})
    masked = al.MaskedModel(adapter, adapter.registry("matrix"), al.Counterfactual(other))
    got = masked.logits(masked.mask(), data)
    assert torch.equal(got, families.run(model_of("t5"), inputs(2)))
    assert data.like([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]).inputs["input_ids"].tolist()[1] == [6, 5, 4, 3, 2, 1]
    for name in ("input_ids", "decoder_input_ids"):
        wrong = inputs(2)
        wrong[name][0, 0] = families.VOCAB
        with pytest.raises(al.InputError, match=f"token {families.VOCAB}"):
            masked.sweep(torch.ones(1, len(masked.registry)), al.batch(wrong))


def test_masks_by_position_are_those_of_the_decoder() -> None:
    adapter = al.adapt(FAMILIES["t5"].make())
    data = al.batch(FAMILIES["t5"].batch(2))
    assert data.length is not None
    for stack, refused in (("encoder", True), ("decoder", False)):
        registry = adapter.registry("row", modules=[f"{stack}.attn.o"])
        model = al.MaskedModel(adapter, registry, output=al.Logit(3))
        mask = torch.ones(2, data.length, len(registry))
        if refused:
            with pytest.raises(al.InputError, match="has shape"):
                model(mask, data)
        else:
            assert torch.equal(model.logits(mask, data), model.logits(model.mask(), data))
