"""Methods of attribution on components of weights: against copies of the model whose weight is the sum of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from tests import models
from tests.conftest import Host, host_of
from tests.spd.small import COUNT, decomposed_at, matrix_of, module_before

ALPHA, DRAWS, EXAMPLES = 0.2, 60, 2
CASES = [
    pytest.param(("gpt2", (1, "attn.qkv")), id="fused"),
    pytest.param(("llama", (1, "mlp.out.pre_identity")), id="inserted_identity"),
]


def last_logit(logits: Tensor) -> Tensor:
    return logits[:, -1, 2]


class Edited:
    """The model in float64, with one weight the sum of its components and its remainder, each times its gate.

    The weight after an inserted identity is that of its module times this sum. Nothing of the library runs here.
    """

    def __init__(self, host: Host, where: tuple[int, str]) -> None:
        self.model, self.inputs = models.untied(host.reference).double(), host.inputs(EXAMPLES)
        part, stem = decomposed_at(host, (where,))[where], module_before(where[1])
        V, U = part.V.double(), part.U.double()
        rest = matrix_of(self.model, *where)[0].double() - (V @ U).T
        terms = torch.cat([torch.einsum("ic,co->coi", V, U), rest[None]])
        if stem is not None:
            terms = matrix_of(self.model, where[0], stem)[0] @ terms
        weight = models.module_of(self.model, where[0], stem or where[1])[0].weight
        (self.name,) = (name for name, one in self.model.named_parameters() if one is weight)
        self.terms = (terms.transpose(1, 2) if host.name == "gpt2" else terms).detach()

    def __call__(self, gates: Any) -> Tensor:
        """Logit 2 at the last position, [example], differentiable in the gates [C + 1]."""
        weight = torch.einsum("c,c...->...", torch.as_tensor(gates, dtype=torch.float64), self.terms)
        return last_logit(torch.func.functional_call(self.model, {self.name: weight}, (self.inputs,)).logits)

    def under(self, masks: np.ndarray) -> np.ndarray:
        """[draw, example]."""
        with torch.no_grad():
            return torch.stack([self(mask) for mask in masks]).numpy()

    def slopes(self, gates: Tensor) -> np.ndarray:
        """[example, C + 1]."""
        return torch.autograd.functional.jacobian(self, gates.double()).numpy()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[al.MaskedModel, al.Batch, Edited]:
    name, where = request.param
    host = host_of("torch", name)
    registry = decomposed_at(host, (where,)).registry(host.adapter)
    return al.MaskedModel(host.adapter, registry, output=last_logit), host.data(EXAMPLES), Edited(host, where)


def test_methods_run_unchanged(case: tuple[al.MaskedModel, al.Batch, Edited]) -> None:
    model, data, edited = case
    width = COUNT + 1
    kept = np.ones(width)

    alone = al.leave_one_out(model, data).weights.values
    each = edited.under(kept[None]) - edited.under(1 - np.eye(width))
    np.testing.assert_allclose(alone, each.T, atol=1e-5)
    assert np.abs(each).max() > 1e-2

    along = al.integrated_gradients(model, data, steps=32).weights.values
    mean = np.mean([edited.slopes(torch.full((width,), (one + 0.5) / 100)) for one in range(100)], axis=0)
    np.testing.assert_allclose(along, mean, atol=1e-3)
    assert np.abs(mean - each.T).max() > 1e-2

    fitted = al.coar(model, data, alpha=ALPHA, draws=DRAWS, solver="least_squares").weights.values
    masks = al.Bernoulli(width, ALPHA, DRAWS).masks(0, DRAWS)
    design = np.column_stack([masks, np.ones(DRAWS)])
    np.testing.assert_allclose(fitted, np.linalg.lstsq(design, edited.under(masks), rcond=None)[0][:-1].T, atol=1e-4)

    found = al.path_gradient(model, data, alpha=ALPHA, draws=300, rho=1 / width)
    expected = coefficients(edited, width)
    assert found.errors is not None
    assert (np.abs(found.weights.values - expected) < 5 * found.errors.values + 1e-5).all()
    assert np.corrcoef(found.weights.values.ravel(), expected.ravel())[0, 1] > 0.97


def coefficients(edited: Edited, width: int) -> np.ndarray:
    """E[f | gate kept] - E[f | gate ablated] over all masks there are, [example, C + 1]."""
    hard = (np.arange(2**width)[:, None] >> np.arange(width)) & 1
    outputs, chance = edited.under(hard), np.where(hard, 1 - ALPHA, ALPHA).prod(1)
    on, off = (chance[:, None] * part / share for part, share in ((hard, 1 - ALPHA), (1 - hard, ALPHA)))
    return outputs.T @ (on - off)
