"""Bases of the user's own: an activation as codes, one number for each component, such as latents of an autoencoder.

The one equation, ``write += decode((1 - mask) * (replacement - encode(read)))``, needs nothing else of a basis. What
decode does not reach, the error term of an autoencoder, stays as it is.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ablationlens.errors import InputError


class Basis(ABC):
    """How an activation is written as codes: subclass it, with `encode` and `decode`, for a basis of your own.

    Codes are in the last axis. A replacement is a value of the code: 0 for `Zero`, the mean code for `Mean`, the code
    of another example for `Counterfactual` and `Resample`, the code plus noise for `GaussianNoise`.

    Example, the two principal directions of some activations::

        class Directions(al.Basis):
            def __init__(self, directions):  # [component, feature], orthonormal
                self.directions = directions
                self.components, self.width = directions.shape

            def encode(self, x):
                return x @ self.directions.T

            def decode(self, codes):
                return codes @ self.directions

    A `MaskedModel` takes the basis as it is when the model is made: change its weights before, not after. Gradients
    reach the parameters of a basis that is a module; freeze them, ``requires_grad_(False)``, if that is not wanted.

    Attributes:
        width: features of the activation that is read.
        components: how many codes there are.
    """

    width: int
    components: int

    @property
    def written(self) -> int:
        """Features that `decode` gives: `width`, unless the basis writes to another activation (a transcoder)."""
        return self.width

    @abstractmethod
    def encode(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows component"]:
        """The codes of an activation, which comes in the model's own dtype."""

    @abstractmethod
    def decode(self, codes: Float[Tensor, "*rows component"]) -> Float[Tensor, "*rows written"]:
        """What codes contribute to the activation that is written.

        It is applied to differences of codes, so it is linear and has no bias.
        """

    def pick(self, latents: Tensor) -> Basis:
        """The same basis with these components alone, in this order; worth overriding where that saves work."""
        return _Picked(self, latents)

    def on(self, device: torch.device) -> Basis:
        """This basis with its tensors and modules on a device: itself if they are there, a copy otherwise."""
        if isinstance(self, nn.Module):
            return cast(Basis, _on(cast(nn.Module, self), device))
        moved = {name: _on(value, device) for name, value in vars(self).items()}
        if all(moved[name] is value for name, value in vars(self).items()):
            return self
        other = copy.copy(self)
        vars(other).update(moved)
        return other

    @property
    def fingerprint(self) -> str:
        """sha256 of the class's name and of all that the basis holds: tensors, modules, numbers and text.

        Raises:
            InputError: if it holds anything else; define a `fingerprint` of your own then.
        """
        held = _held(self)
        state = _state(held)
        known = vars(self).get(MEMO)
        if known is None or known[0] != state:
            digest = hashlib.sha256(type(self).__qualname__.encode())
            for name, value in held.items():
                digest.update(f"{name}=".encode())
                _update(digest, value, f"{type(self).__name__}.{name}")
            known = vars(self)[MEMO] = (state, digest.hexdigest())
        return known[1]

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Basis) and self.fingerprint == other.fingerprint)

    def __hash__(self) -> int:
        return hash(self.fingerprint)


class _Picked(Basis):
    """Some components of another basis."""

    def __init__(self, basis: Basis, latents: Tensor) -> None:
        self.basis = basis
        self.latents = latents
        self.width, self.components = basis.width, len(latents)

    @property
    def written(self) -> int:
        return self.basis.written

    def encode(self, x: Tensor) -> Tensor:
        return self.basis.encode(x)[..., self.latents.to(x.device)]

    def decode(self, codes: Tensor) -> Tensor:
        whole = codes.new_zeros(*codes.shape[:-1], self.basis.components)
        return self.basis.decode(whole.index_copy(-1, self.latents.to(codes.device), codes))


def check_basis(basis: Any, owner: str) -> None:
    """Refuse what is no basis, or does not do what a basis does, by a row of zeros and one of ones.

    Raises:
        InputError: if shapes are wrong, or `decode` is not linear.
    """
    sizes = [getattr(basis, name, None) for name in ("width", "components")]
    if not isinstance(basis, Basis) or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(
            f"the basis of {owner} is an al.Basis with a width and a number of components, for example "
            f"al.Dictionary(W_enc, W_dec); got {type(basis).__name__} with width {sizes[0]}, components {sizes[1]}"
        )
    with torch.no_grad():
        like = _like(basis)
        codes = basis.encode(torch.zeros(1, basis.width, device=like.device, dtype=like.dtype))
        if tuple(codes.shape) != (1, basis.components):
            raise InputError(
                f"encode of {owner} turns [1, {basis.width}] into codes [1, {basis.components}]; "
                f"got {list(codes.shape)}"
            )
        ones = torch.ones_like(codes)
        nothing, once, twice = (basis.decode(factor * ones) for factor in (0.0, 1.0, 2.0))
    if tuple(once.shape) != (1, basis.written):
        raise InputError(
            f"decode of {owner} turns codes [1, {basis.components}] into [1, {basis.written}]; got {list(once.shape)}"
        )
    if bool(nothing.any()) or not torch.allclose(twice, 2 * once, rtol=1e-2, atol=1e-5):
        raise InputError(
            f"decode of {owner} is applied to differences of codes, so it has to be linear: leave out the decoder's "
            "bias and any rescaling; decode(0) has to be 0 and decode(2 c) twice decode(c)"
        )


def _like(basis: Basis) -> Tensor:
    """A tensor that the basis holds, to know its device and dtype."""
    held: list[Any] = list(_held(basis).values())
    tensors = [value for value in held if isinstance(value, Tensor)]
    tensors += [value for module in held if isinstance(module, nn.Module) for value in module.state_dict().values()]
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))


OWN_TO_TORCH = frozenset(vars(nn.Module()))
"""What every module holds: of these, the parameters, buffers and submodules are looked at one by one."""
MEMO = "_fingerprint_memo"


def _held(basis: Basis) -> dict[str, Any]:
    """What a basis holds, by name, in a fixed order."""
    if isinstance(basis, nn.Module):
        return _parts(cast(nn.Module, basis))
    return {name: value for name, value in sorted(vars(basis).items()) if name != MEMO}


def _parts(module: nn.Module, path: str = "") -> dict[str, Any]:
    """What a module and its submodules hold: tensors, also those that are not saved, and plain attributes."""
    plain = {name: value for name, value in sorted(vars(module).items()) if name not in (*OWN_TO_TORCH, MEMO)}
    held: dict[str, Any] = {f"{path}:class": type(module).__qualname__}
    held |= {f"{path}.{name}": value for name, value in {**plain, **module._parameters, **module._buffers}.items()}
    for name, child in module._modules.items():
        if child is not None:
            held |= _parts(child, f"{path}.{name}")
    return held


def _state(value: Any) -> Any:
    """A key that changes when a value does: tensors by their versions, which is quicker than reading them."""
    match value:
        case Tensor():
            return (id(value), value.data_ptr(), value._version)
        case nn.Module():
            return _state(_parts(value))
        case Basis():
            return _state(_held(value))
        case Mapping():
            return tuple((str(name), _state(item)) for name, item in value.items())
        case list() | tuple():
            return tuple(_state(item) for item in value)
        case _:
            return repr(value)


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Basis) and not isinstance(value, nn.Module):
        return value.on(device)
    if isinstance(value, nn.Module) and any(tensor.device != device for tensor in value.state_dict().values()):
        return copy.deepcopy(value).to(device)  # a module moves in place, and this one is the user's
    return value


def _update(digest: Any, value: Any, name: str) -> None:
    match value:
        case Tensor():
            digest.update(str((tuple(value.shape), value.dtype)).encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        case nn.Module():
            _update(digest, _parts(value), name)
        case Basis():
            digest.update(value.fingerprint.encode())
        case Mapping():
            for key, item in value.items():
                digest.update(f"{key}=".encode())
                _update(digest, item, name)
        case list() | tuple():
            for item in value:
                _update(digest, item, name)
                digest.update(b",")
        case None | bool() | int() | float() | str() | torch.dtype():
            digest.update(f"{value!r};".encode())
        case _:
            raise InputError(
                f"a basis that holds a {type(value).__name__} ({name}) has to say itself what tells it apart: define a "
                "property `fingerprint` in its class, a text that changes whenever the basis does"
            )
