"""Law 6: packing draws and examples differently changes nothing; draw i is the same for any batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ablationlens as al
from tests import models
from tests.conftest import ALL_HOSTS, Host, host_of

CASES = [(*host, "zero") for host in ALL_HOSTS] + [
    (*host, ablation)
    for host in (("torch", "gpt2"), ("transformer_lens", "llama"), ("nnsight", "gpt2"), ("torch", "convnet"))
    for ablation in ("resample", "noise")
]


@pytest.mark.parametrize(("holder", "name", "ablation"), CASES)
def test_rows_of_a_pass_change_nothing(holder: str, name: str, ablation: str) -> None:
    host = host_of(holder, name)
    data = host.data(3)
    one = {"zero": al.Zero(), "resample": al.Resample(seed=3), "noise": al.GaussianNoise(0.1, seed=3)}[ablation]
    registry = host.registry("row")
    design = al.Bernoulli(len(registry), 0.3, 5, seed=2)
    model = al.MaskedModel(host.adapter, registry, one, output=lambda logits: logits.flatten(1)[:, ::3].mean(1))
    masks = torch.from_numpy(design.masks(0, 5)).float()
    single = torch.stack([model(mask[None], data) for mask in masks])  # no packing at all: one mask at a time
    slopes = torch.zeros(3, len(registry))
    for mask in masks:
        gates = mask.repeat(3, 1).requires_grad_()
        slopes += torch.autograd.grad(model(gates, data).sum(), gates)[0] / 5
    for rows in (1, 2, 4, 7, 64):
        swept = model.sweep(design, data, rows=rows)
        assert swept.shape == (5, 3)
        assert models.close(swept, single), rows
        gradient = model.sweep_gradient(design, data, rows=rows)
        assert gradient is not None
        assert models.close(gradient, slopes), rows


def test_a_draw_is_the_same_whatever_is_drawn_with_it(gpt2: Host) -> None:
    registry = gpt2.registry("head")
    model = al.MaskedModel(gpt2.adapter, registry)
    data = gpt2.data(3)
    for name in (al.Bernoulli, al.Subset, al.Balanced):
        many = model.sweep(name(len(registry), 0.3, 12, seed=5), data, rows=12)
        few = model.sweep(name(len(registry), 0.3, 4, seed=5), data, rows=4)
        assert float((many[:4] - few).abs().max()) < 1e-5 * max(1.0, float(few.abs().max()))


@given(
    seed=st.integers(0, 2**63 - 1),
    components=st.integers(2, 60),
    start=st.integers(0, 400),
    count=st.integers(1, 12),
    design=st.sampled_from([al.Bernoulli, al.Subset, al.Balanced]),
)
@settings(max_examples=60, deadline=None)
def test_draw_i_depends_on_seed_and_i_alone(
    seed: int, components: int, start: int, count: int, design: type[al.Bernoulli]
) -> None:
    here = design(components, 0.5, start + count, seed)
    longer = design(components, 0.5, start + count + 100, seed)
    block = here.masks(start, start + count)
    assert np.array_equal(block, np.stack([longer.mask(draw) for draw in range(start, start + count)]))
    backwards = [here.mask(draw) for draw in reversed(range(start, start + count))]
    assert np.array_equal(block, np.stack(backwards[::-1]))


def test_an_example_gives_the_same_output_in_any_company() -> None:
    """Rows of other lengths, and padding on either side, change nothing."""
    host = host_of("torch", "gpt2")
    registry = host.registry("row")
    mask = torch.from_numpy(al.Bernoulli(len(registry), 0.2, 1, seed=1).masks(0, 1)).float()
    model = al.MaskedModel(host.adapter, registry)
    rows = [[3, 7, 9, 1, 4], [8, 2, 6], [5, 11, 31, 30, 2, 2, 17]]
    alone = torch.cat([model(mask, al.batch(torch.tensor([row]))) for row in rows])
    for side in ("left", "right"):
        padded, real = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
        for i, row in enumerate(rows):
            columns = slice(9 - len(row), 9) if side == "left" else slice(0, len(row))
            padded[i, columns], real[i, columns] = torch.tensor(row), 1
        together = model(mask, al.batch(padded, attention_mask=real))
        assert float((together - alone).abs().max()) < 1e-5 * max(1.0, float(alone.abs().max())), side
