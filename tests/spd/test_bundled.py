"""The decomposition that ships with the package keeps what its card says."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from ablationlens.spd.bundled import FILE, _folder


def test_it_is_of_the_bundled_model_and_says_what_the_card_says() -> None:
    zoo, card = al.zoo.load("induction"), al.spd.card("induction")
    adapter, decomposition = al.adapt(zoo.model), al.spd.bundled("induction")
    assert [f"L{layer}.{module}" for layer, module in decomposition.places] == [m["module"] for m in card["modules"]]
    weights = decomposition.reconstruction(adapter)
    for module, relative in zip(card["modules"], weights["relative"], strict=True):
        assert relative == pytest.approx(module["remainder"], abs=1e-3)
        assert relative < 0.1
    data = al.batch(zoo.sequences(16, 24, seed=5))
    for (where, lower), module in zip(decomposition.importances(adapter, data).items(), card["modules"], strict=True):
        count = float((lower > 0.1).float().sum(-1).mean())
        assert count == pytest.approx(module["L0"], rel=0.2, abs=0.3), where
        assert count < module["components"] / 2


def test_the_importance_masked_model_still_copies() -> None:
    zoo, decomposition = al.zoo.load("induction"), al.spd.bundled("induction")
    adapter, ids = al.adapt(zoo.model), al.zoo.load("induction").sequences(32, 24, seed=6)
    for base, least in ((al.spd.Deterministic(decomposition), 0.9), (al.spd.Stochastic(decomposition), 0.95)):
        model = al.MaskedModel(adapter, decomposition.registry(adapter), output=al.KL(), base=base)
        logits = model.logits(model.mask(), al.batch(ids))
        assert float((logits[:, 24:-1].argmax(-1) == ids[:, 25:]).float().mean()) >= least


def test_it_is_small_and_everything_kept_is_the_model_itself() -> None:
    zoo, decomposition = al.zoo.load("induction"), al.spd.bundled("induction")
    adapter, ids = al.adapt(zoo.model), al.zoo.load("induction").sequences(4, 12, seed=6)
    assert (_folder("induction") / FILE).stat().st_size < 6e6
    model = al.MaskedModel(adapter, decomposition.registry(adapter))
    with torch.no_grad():
        plain = zoo.model(ids).logits
    assert torch.equal(model.logits(model.mask(), al.batch(ids)), plain)


@pytest.mark.parametrize("what", [al.spd.bundled, al.spd.card])
def test_an_unknown_name(what: object) -> None:
    with pytest.raises(al.UnknownNameError, match="no bundled decomposition is called 'domains': there is induction"):
        what("domains")  # type: ignore[operator]
