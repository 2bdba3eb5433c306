"""Bases of the user's own: what the library asks of them, and how they are told apart."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.basis import check_basis
from tests import models, own_sites
from tests.conftest import host_of


class Directions(al.Basis):
    """The example of the documentation: some orthonormal directions."""

    def __init__(self, directions: Tensor) -> None:
        self.directions = directions
        self.components, self.width = directions.shape

    def encode(self, x: Tensor) -> Tensor:
        return x @ self.directions.T

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.directions


class Learnt(nn.Module, al.Basis):
    """A module of the user's own that is a basis."""

    def __init__(self, width: int = 32, components: int = 6) -> None:
        super().__init__()
        self.width, self.components = width, components
        self.encoder = nn.Linear(width, components)
        self.decoder = nn.Linear(components, width, bias=False)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(codes)


class Holding(al.Basis):
    """A basis that holds a module and a number."""

    def __init__(self, inner: Learnt, scale: float = 1.0, extra: Any = None) -> None:
        self.inner, self.scale, self.extra = inner, scale, extra
        self.width, self.components = inner.width, inner.components

    def encode(self, x: Tensor) -> Tensor:
        return self.scale * self.inner.encode(x)

    def decode(self, codes: Tensor) -> Tensor:
        return self.inner.decode(codes)


def orthonormal(seed: int = 0) -> Tensor:
    square = torch.randn(32, 32, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(square)[0][:5]


@pytest.mark.parametrize("name", own_sites.NAMES)
def test_directions_are_projected_out_of_the_stream(name: str) -> None:
    """An oracle without codes: x - x P, with P the projector on the ablated directions."""
    host = host_of("torch", name)
    directions = orthonormal()
    site = al.custom_site("direction", own_sites.addresses(name), basis=Directions(directions))
    registry = host.adapter.registry(site)
    inputs, mask = host.inputs(4), own_sites.masks(4, 5)
    got = al.MaskedModel(host.adapter, registry).logits(mask, al.batch(inputs))
    for row in range(4):
        off = directions[mask[row] == 0]
        expected = own_sites.changed(host.reference, inputs[row : row + 1], 0, lambda x, off=off: x - x @ off.T @ off)
        assert models.distance(got[row : row + 1], expected) < 1e-5


@pytest.mark.parametrize("make", [Learnt, lambda: Holding(Learnt(), 0.5)])
def test_a_module_may_be_or_hold_the_basis(make: Any) -> None:
    torch.manual_seed(0)
    host, basis = host_of("torch", "gpt2"), make()
    site = al.custom_site("learnt", own_sites.addresses("gpt2"), basis=basis, select=[1, 2, 5])
    registry = host.adapter.registry(site)
    inputs = host.inputs(4)
    model = al.MaskedModel(host.adapter, registry)
    got = model.logits(torch.zeros(1, 3), al.batch(inputs))

    def change(x: Tensor) -> Tensor:
        kept = basis.encode(x)
        kept[..., [0, 3, 4]] = 0
        return x - basis.decode(kept)

    assert models.close(got, own_sites.changed(host.reference, inputs, 0, change))
    assert torch.equal(model.logits(torch.ones(1, 3), al.batch(inputs)), models.logits_of(host.reference, inputs))


def test_picked_components_of_any_basis() -> None:
    basis, x = Directions(orthonormal()), torch.randn(3, 32)
    picked = basis.pick(torch.tensor([4, 1]))
    assert (picked.width, picked.components, picked.written) == (32, 2, 32)
    assert torch.equal(picked.encode(x), basis.encode(x)[:, [4, 1]])
    codes = torch.randn(3, 2)
    assert models.close(picked.decode(codes), codes @ basis.directions[[4, 1]])
    check_basis(picked, "L0.x")


# --- fingerprints ----------------------------------------------------------------------------------------------------


def test_a_fingerprint_changes_with_whatever_the_basis_holds() -> None:
    torch.manual_seed(0)
    inner = Learnt()
    found = {
        Directions(orthonormal()).fingerprint,
        Directions(orthonormal(1)).fingerprint,
        Directions(orthonormal().to(torch.bfloat16)).fingerprint,
        inner.fingerprint,
        Holding(inner).fingerprint,
        Holding(inner, 0.5).fingerprint,
        Holding(inner, 0.5, extra=("a", 1, None, {"b": torch.zeros(2)})).fingerprint,
        Holding(inner, 0.5, extra=("a", 1, None, {"b": torch.ones(2)})).fingerprint,
        Holding(inner, 0.5, extra=Directions(orthonormal())).fingerprint,
        own_sites.autoencoder().fingerprint,
        own_sites.autoencoder(k=3).fingerprint,
        own_sites.autoencoder(threshold=0.1).fingerprint,
    }
    assert len(found) == 12
    changed = copy.deepcopy(inner)
    assert changed.fingerprint == inner.fingerprint
    with torch.no_grad():
        changed.encoder.bias[-1] += 1e-3
    assert changed.fingerprint not in found


class Chained(al.Basis, torch.nn.Module):
    """A module that keeps part of what it does out of its state dict."""

    def __init__(self, activation: torch.nn.Module, scale: float = 1.0, shift: float = 0.0) -> None:
        torch.nn.Module.__init__(self)
        self.width = self.components = 4
        self.chain = torch.nn.Sequential(activation)
        self._scale = scale
        self.register_buffer("shift", torch.full((4,), shift), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        return self.chain(self._scale * x + self.shift)

    def decode(self, codes: Tensor) -> Tensor:
        return codes


def test_a_fingerprint_sees_what_a_state_dict_does_not() -> None:
    relu, tanh = torch.nn.ReLU(), torch.nn.Tanh()
    several = [Chained(relu), Chained(tanh), Chained(relu, 2.0), Chained(relu, shift=1.0)]
    assert len({one.fingerprint for one in several}) == 4
    assert Chained(torch.nn.ReLU()) == Chained(torch.nn.ReLU())


def test_a_fingerprint_follows_a_change_in_place() -> None:
    basis = Directions(orthonormal())
    before = basis.fingerprint
    assert basis.fingerprint == before
    basis.directions.mul_(3)
    assert basis.fingerprint == Directions(3 * orthonormal()).fingerprint != before


def test_equal_bases_are_equal() -> None:
    assert Directions(orthonormal()) == Directions(orthonormal())
    assert hash(Directions(orthonormal())) == hash(Directions(orthonormal()))
    assert Directions(orthonormal()) != Directions(orthonormal(1))
    assert Directions(orthonormal()) != "directions"


def test_a_basis_that_holds_anything_else_says_what_to_define() -> None:
    with pytest.raises(al.InputError, match=r"holds a function \(Holding\.extra\).*define a property `fingerprint`"):
        _ = Holding(Learnt(), extra=lambda x: x).fingerprint

    class Named(Holding):
        fingerprint = "mine, version 1"  # type: ignore[assignment]

    assert Named(Learnt(), extra=lambda x: x) == Named(Learnt(), extra=lambda x: 2 * x)


def test_on_a_device_that_it_is_on_a_basis_is_itself() -> None:
    cpu = torch.device("cpu")
    for basis in (Directions(orthonormal()), Learnt(), Holding(Learnt()), own_sites.autoencoder()):
        assert basis.on(cpu) is basis


def test_on_another_device_a_basis_is_a_copy_and_the_users_stays() -> None:
    meta = torch.device("meta")
    for basis in (Directions(orthonormal()), Learnt(), Holding(Learnt()), own_sites.autoencoder()):
        moved = basis.on(meta)
        assert moved.decode(moved.encode(torch.zeros(2, 32, device=meta))).device == meta
        assert basis.decode(basis.encode(torch.zeros(2, 32))).device.type == "cpu"


# --- what is refused --------------------------------------------------------------------------------------------------


class Broken(Directions):
    """A basis with one thing wrong."""

    def __init__(self, wrong: str) -> None:
        super().__init__(orthonormal())
        self.wrong = wrong

    def encode(self, x: Tensor) -> Tensor:
        codes = super().encode(x)
        return codes[..., :-1] if self.wrong == "encode" else codes

    def decode(self, codes: Tensor) -> Tensor:
        x = super().decode(codes)
        match self.wrong:
            case "decode":
                return x[..., :-1]
            case "bias":
                return x + 1
            case "norm":
                return x / (1e-6 + x.norm(dim=-1, keepdim=True))
            case _:
                return x


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ("encode", r"encode of here turns \[1, 32\] into codes \[1, 5\]; got \[1, 4\]"),
        ("decode", r"decode of here turns codes \[1, 5\] into \[1, 32\]; got \[1, 31\]"),
        ("bias", "has to be linear: leave out the decoder's bias"),
        ("norm", "has to be linear"),
    ],
)
def test_a_basis_that_does_not_do_what_a_basis_does(wrong: str, match: str) -> None:
    with pytest.raises(al.InputError, match=match):
        al.custom_site("here", {"torch": "transformer.h.0"}, basis=Broken(wrong))


def test_what_is_no_basis() -> None:
    class Nameless(Directions):
        def __init__(self) -> None:
            self.directions = orthonormal()

    for wrong in (nn.Linear(3, 4), Nameless(), "sae"):
        with pytest.raises(al.InputError, match="is an al.Basis with a width and a number of components"):
            check_basis(wrong, "L0.sae")
