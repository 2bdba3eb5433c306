"""What `custom_site` takes, what it becomes, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.custom import _location
from ablationlens.sites import Codes, Coordinates, Grouped, Site
from tests import own_sites

HERE = {"torch": "model.layers.3"}


def made(width: int = 12, **options: Any) -> tuple[Site, tuple[int, ...] | None]:
    return al.custom_site("resid_post", HERE, **options).site(width, "model.layers.3")


# --- groups and selections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cutting", "indices"),
    [
        ({}, Coordinates(12), None),
        ({"groups": 3}, Coordinates(12, 4), None),
        ({"groups": 12}, Coordinates(12, 1), None),
        ({"groups": np.int64(1)}, Coordinates(12, 12), None),
        ({"select": slice(2, 5)}, Coordinates(12), (2, 3, 4)),
        ({"select": [7, 1]}, Coordinates(12), (1, 7)),
        ({"select": torch.tensor([7, 1])}, Coordinates(12), (1, 7)),
        ({"select": slice(None, None, -1)}, Coordinates(12), None),
        ({"select": slice(-3, None)}, Coordinates(12), (9, 10, 11)),
        ({"select": slice(0, 6), "groups": 2}, Grouped(12, ((0, 1, 2), (3, 4, 5))), None),
        ({"select": [1, 5, 2, 9], "groups": 2}, Grouped(12, ((1, 2), (5, 9))), None),
        ({"groups": [[3, 0], [5]]}, Grouped(12, ((0, 3), (5,))), None),
        ({"groups": [range(0, 4), np.array([8])]}, Grouped(12, ((0, 1, 2, 3), (8,))), None),
    ],
)
def test_groups_and_selections_of_features(options: dict[str, Any], cutting: Any, indices: Any) -> None:
    site, chosen = made(**options)
    assert (site.basis, chosen) == (cutting, indices)
    assert site.kind == "custom"
    assert site.cut.weights == ()


def test_with_a_basis_they_are_of_codes() -> None:
    basis = own_sites.autoencoder()
    site, chosen = made(32, basis=basis, select=[3, 4])
    assert (site.basis, chosen) == (Codes(basis, Coordinates(20)), (3, 4))
    site, chosen = made(32, basis=basis, groups=5)
    assert (site.basis, chosen) == (Codes(basis, Coordinates(20, 4)), None)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"groups": 5}, r"L3\.resid_post: 12 features of model\.layers\.3 do not make 5 equal groups.*divisor of 12"),
        ({"groups": 13}, "do not make 13 equal groups"),
        ({"groups": 3, "select": slice(0, 4)}, "4 of the 12 features of model.layers.3 do not make 3 equal groups"),
        ({"groups": 0}, "number of groups, from 1; got 0"),
        ({"groups": []}, r"a number, or the features of each group, \[\[0, 1\], \[2\]\]"),
        ({"groups": [[0], []]}, "group 1 of 'resid_post' has no features"),
        ({"groups": [[0, 1], [1, 2]]}, "feature 1 of 'resid_post' is in groups 0 and 1"),
        ({"groups": [[0, 0]]}, "feature 0 of 'resid_post' is in group 0 twice"),
        ({"groups": [[0, 12]]}, "there is no 12 among the 12 features of model.layers.3: they are 0 to 11"),
        ({"groups": [[-1]]}, "there is no -1 among"),
        ({"groups": [[0], [1]], "select": [0]}, "leave out select="),
        ({"select": [3, 12]}, "there is no 12 among the 12 features"),
        ({"select": [3, 3]}, "each once"),
        ({"select": []}, "select= chooses some"),
        ({"select": slice(12, 20)}, "select= chooses some"),
        ({"layer": -1}, "layer of 'resid_post' is an integer from 0; got -1"),
        ({"axis": 0}, "axis 0 is the batch"),
    ],
)
def test_groups_and_selections_that_cannot_be_meant(options: dict[str, Any], match: str) -> None:
    with pytest.raises(al.InputError, match=match):
        made(**options)


def test_a_basis_of_another_width_is_refused_naming_both() -> None:
    with pytest.raises(al.InputError, match=r"basis of L3\.resid_post has width 32, and model\.layers\.3 has 12 feat"):
        made(12, basis=own_sites.autoencoder())
    transposed = al.Dictionary(torch.zeros(20, 32), torch.zeros(32, 20))
    with pytest.raises(al.InputError, match=r"has width 20, and .* has 32 features; its matrices look transposed"):
        made(32, basis=transposed)


# --- names and addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "layer", "expected"),
    [
        ({"torch": "model.layers.3"}, None, 3),
        ({"transformer_lens": "blocks.11.hook_resid_post", "torch": "model.layers.12.input"}, None, 11),
        ({"torch": "model.layers.12.input", "transformer_lens": "blocks.11.hook_resid_post"}, None, 12),
        ({"torch": "model.norm"}, None, 0),
        ({"torch": "conv1"}, None, 0),
        ({"torch": "model.layers.3"}, 7, 7),
    ],
)
def test_the_layer_is_the_first_integer_in_an_address(addresses: dict[str, str], layer: Any, expected: int) -> None:
    site = al.custom_site("resid_post", addresses, layer=layer)
    assert site.layer == expected
    assert site.site(4, "x")[0].name(2) == f"L{expected}.resid_post 2"


def test_a_basis_may_write_where_it_does_not_read() -> None:
    site = al.custom_site("latent", HERE, basis=own_sites.autoencoder(), write={"torch": "model.layers.4"})
    read, write = site.taps
    assert read != write
    assert (read.side, write.side) == ("in", "out")
    assert read.location is not None
    assert write.location is not None
    assert (read.location.addresses, write.location.addresses) == (
        (("torch", "model.layers.3"),),
        (("torch", "model.layers.4"),),
    )
    for without in ({}, {"basis": None}):
        with pytest.raises(al.InputError, match="write= of 'latent' needs a basis"):
            al.custom_site("latent", HERE, write={"torch": "x"}, **without)
    narrow = al.Dictionary(torch.zeros(32, 20), torch.zeros(20, 8))
    with pytest.raises(al.InputError, match=r"reads 32 features and writes 8.*write=\{"):
        al.custom_site("latent", HERE, basis=narrow)
    assert al.custom_site("latent", HERE, basis=narrow, write={"torch": "x"}).basis is narrow


@pytest.mark.parametrize("name", ["", "two words", "3rd", "a/b", "head", "neuron", "my.head"])
def test_names_that_would_be_mistaken(name: str) -> None:
    with pytest.raises(al.InputError, match="name"):
        al.custom_site(name, HERE)


@pytest.mark.parametrize(
    ("addresses", "match"),
    [
        ("blocks.3.hook_resid_post", r'say for which host.*\{"transformer_lens": "blocks.3.hook_resid_post"\}'),
        ({}, "say for which host"),
        (["model.layers.3"], "say for which host"),
        ({"jax": "model"}, "the hosts are transformer_lens, torch, nnsight"),
        ({"torch": ""}, "the torch address of 'resid' is a text"),
        ({"torch": 3}, "the torch address of 'resid' is a text; got 3"),
    ],
)
def test_addresses_that_do_not_say_for_which_host(addresses: Any, match: str) -> None:
    with pytest.raises(al.InputError, match=match):
        _location("resid", addresses, -1, "addresses")


def test_two_sites_of_one_name_and_layer_that_differ_are_refused() -> None:
    from tests.conftest import host_of

    adapter = host_of("torch", "gpt2").adapter
    one = own_sites.residual("gpt2")
    with pytest.raises(al.OverlapError, match=r"L0\.resid_post is cut twice as kind 'custom'"):
        adapter.registry([one, own_sites.residual("gpt2", groups=4)])
    halves = [own_sites.residual("gpt2", groups=None, select=part) for part in (slice(0, 16), slice(16, 32))]
    assert len(adapter.registry(halves)) == 32
    with pytest.raises(al.OverlapError, match=r"L0\.resid_post 3 is in both"):
        adapter.registry([halves[0], own_sites.residual("gpt2", groups=None, select=[3])])
