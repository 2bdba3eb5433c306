"""Dictionaries against the plain formulas of ReLU, JumpReLU and top-k autoencoders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.basis import check_basis
from tests import own_sites
from tests.models import close

X = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(7))
THRESHOLD = torch.linspace(-0.2, 1.5, own_sites.LATENTS)


def plain(kind: str, of: dict[str, Tensor]) -> Tensor:
    """Codes as the autoencoders of the literature define them, one row at a time."""
    hidden = (X - of["b_dec"]) @ of["W_enc"] + of["b_enc"]
    codes = torch.zeros_like(hidden)
    for row in range(3):
        for position in range(5):
            values = hidden[row, position]
            for latent, value in enumerate(values.tolist()):
                active = {
                    "relu": value > 0,
                    "jump_relu": value > max(float(THRESHOLD[latent]), 0.0),
                    "top_k": value > 0 and int((values > value).sum()) < 6,
                }[kind]
                codes[row, position, latent] = value if active else 0.0
    return codes


OPTIONS: dict[str, dict[str, Any]] = {"relu": {}, "jump_relu": {"threshold": THRESHOLD}, "top_k": {"k": 6}}


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_codes_are_those_of_the_plain_formula(kind: str) -> None:
    of, basis = own_sites.tensors(), own_sites.autoencoder(**OPTIONS[kind])
    check_basis(basis, "L0.sae")
    expected = plain(kind, of)
    assert close(basis.encode(X), expected)
    assert 0.05 < float((expected > 0).float().mean()) < 0.6
    assert torch.equal(basis.decode(expected), expected @ of["W_dec"])
    assert (basis.width, basis.components, basis.written) == (32, own_sites.LATENTS, 32)


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_picked_latents_are_those_of_the_whole(kind: str) -> None:
    basis = own_sites.autoencoder(**OPTIONS[kind])
    latents = torch.tensor([2, 5, 11, 4])
    picked = basis.pick(latents)
    codes = basis.encode(X)
    assert close(picked.encode(X), codes[..., latents])
    alone = torch.zeros_like(codes)
    alone[..., latents] = codes[..., latents]
    assert close(picked.decode(codes[..., latents]), basis.decode(alone))
    assert picked.components == 4
    assert picked.fingerprint != basis.fingerprint
    again = picked.pick(torch.tensor([3, 0]))
    assert close(again.encode(X), codes[..., [4, 2]])
    assert basis.components == own_sites.LATENTS


def test_without_biases_and_with_one_threshold_for_all() -> None:
    of = own_sites.tensors()
    assert close(al.Dictionary(of["W_enc"], of["W_dec"]).encode(X), (X @ of["W_enc"]).relu())
    hidden = X @ of["W_enc"]
    for threshold in (0.5, torch.tensor(0.5)):
        found = al.Dictionary(of["W_enc"], of["W_dec"], threshold=threshold).encode(X)
        assert close(found, torch.where(hidden > 0.5, hidden, 0.0))


def test_a_half_precision_activation_is_encoded_in_the_precision_of_the_dictionary() -> None:
    basis = own_sites.autoencoder()
    assert basis.encode(X.to(torch.bfloat16)).dtype == torch.float32


def test_parameters_of_the_users_module_get_no_gradient() -> None:
    of = {name: torch.nn.Parameter(value) for name, value in own_sites.tensors().items()}
    basis = al.Dictionary(of["W_enc"], of["W_dec"], b_enc=of["b_enc"], pre_bias=of["b_dec"])
    x = X.clone().requires_grad_()
    basis.decode(basis.encode(x)).sum().backward()
    assert x.grad is not None
    assert all(value.grad is None for value in of.values())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"W_dec": (32, 20)}, r"\[32, 20\] and \[32, 20\]; one of them looks transposed"),
        ({"W_dec": (19, 32)}, r"\[32, 20\] and \[19, 32\]"),
        ({"b_enc": (32,)}, r"b_enc of a dictionary has shape \[20\]; got \[32\]"),
        ({"pre_bias": (20,)}, r"pre_bias of a dictionary has shape \[32\]; got \[20\]"),
        ({"threshold": (3,)}, r"threshold of a dictionary has shape \[20\]; got \[3\]"),
        ({"threshold": 0.5, "k": 3}, "give one of them"),
        ({"k": 0}, "1 to 20 codes"),
        ({"k": 21}, "1 to 20 codes"),
    ],
)
def test_tensors_that_do_not_fit(options: dict[str, Any], match: str) -> None:
    given = {name: torch.zeros(value) if isinstance(value, tuple) else value for name, value in options.items()}
    given = {"W_enc": torch.zeros(32, 20), "W_dec": torch.zeros(20, 32), **given}
    with pytest.raises(al.InputError, match=match):
        al.Dictionary(**given)


def test_what_is_no_matrix() -> None:
    for wrong in (torch.zeros(20), torch.zeros(32, 20, dtype=torch.long)):
        with pytest.raises(al.InputError, match="float tensors W_enc"):
            al.Dictionary(wrong, torch.zeros(20, 32))


def test_its_description_says_what_it_is() -> None:
    assert repr(own_sites.autoencoder()) == "Dictionary(32 features, 20 ReLU codes)"
    assert "JumpReLU" in repr(own_sites.autoencoder(threshold=0.1))
    assert "top-6" in repr(own_sites.autoencoder(k=6))


def test_a_code_at_its_threshold_is_off() -> None:
    """JumpReLU is z * H(z - theta), with H(0) = 0 (arXiv 2407.14435)."""
    basis = al.Dictionary(torch.eye(3), torch.eye(3), threshold=torch.tensor([0.5, 0.5, 0.5]))
    assert torch.equal(basis.encode(torch.tensor([[0.5, 0.75, 0.25]])), torch.tensor([[0.0, 0.75, 0.0]]))
