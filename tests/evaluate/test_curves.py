"""Curves of faithfulness made of numbers alone: areas against scikit-learn, intervals and orders written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import auc

import ablationlens as al
from ablationlens.evaluate.curves import AREAS, Faithfulness, area

COUNTS = np.array([0, 1, 3, 4])
METHODS, EXAMPLES, ORDERS = ("one", "two"), 5, 4


def made(seed: int = 0, **changes: Any) -> Faithfulness:
    """Random outputs beside 2 (all ablated) and 6 (all kept), about, which curves overshoot; the ends are those."""
    rng = np.random.default_rng(seed)
    full, empty = 6 + rng.normal(size=EXAMPLES), 2 + rng.normal(size=EXAMPLES)

    def curves(count: int) -> np.ndarray:
        values = rng.uniform(0, 14, size=(count, 2, len(COUNTS), EXAMPLES))
        values[:, 0, 0] = values[:, 1, -1] = empty
        values[:, 0, -1] = values[:, 1, 0] = full
        return values

    settings: dict[str, Any] = {
        "methods": METHODS,
        "counts": COUNTS,
        "examples": tuple("abcde"),
        "outputs": curves(len(METHODS)),
        "random": curves(ORDERS),
        "full": full,
        "empty": empty,
        "provenance": {"seed": seed},
    }
    return Faithfulness(**{**settings, **changes})


def pooled(found: Faithfulness, outputs: np.ndarray, of: list[int] | None = None) -> np.ndarray:
    """Faithfulness of the mean output of some examples."""
    some = list(range(EXAMPLES)) if of is None else of
    empty = found.empty[some].mean()
    return (outputs[:, some].mean(1) - empty) / (found.full[some].mean() - empty)


def test_areas_are_scikit_learns() -> None:
    found = made()
    table = found.table().set_index(["method", "measure"])
    shares = COUNTS / 4
    assert np.array_equal(found.fractions, shares)
    for number, name in enumerate(METHODS):
        kept, ablated = (pooled(found, found.outputs[number, direction]) for direction in (0, 1))
        expected = {"cpr": auc(shares, kept), "cmd": auc(shares, abs(1 - kept)), "deletion": auc(shares, ablated)}
        for measure in AREAS:
            assert table.loc[(name, measure), "value"] == pytest.approx(expected[measure])
    many = np.stack([pooled(found, one[0]) for one in found.random])
    assert area(many, shares, "cmd").tolist() == pytest.approx([auc(shares, abs(1 - one)) for one in many])


def test_a_level_counts_the_orders_that_are_as_good_and_itself() -> None:
    found = made()
    table = found.table().set_index(["method", "measure"])
    for number, name in enumerate(METHODS):
        for measure, direction in (("cpr", 0), ("cmd", 0), ("deletion", 1)):
            areas = [float(area(pooled(found, one[direction]), COUNTS / 4, measure)) for one in found.random]
            own = float(area(pooled(found, found.outputs[number, direction]), COUNTS / 4, measure))
            better = sum(one >= own if measure == "cpr" else one <= own for one in areas)
            row = table.loc[(name, measure)]
            assert row["p"] == (1 + better) / (1 + ORDERS)
            assert row["random"] == pytest.approx(np.mean(areas))
            assert (row["random_low"], row["random_high"]) == pytest.approx((min(areas), max(areas)))


def test_an_order_that_is_the_methods_own_is_as_good() -> None:
    found = made()
    same = made(random=np.broadcast_to(found.outputs[0], (ORDERS, *found.outputs.shape[1:])).copy())
    assert (same.table().query("method == 'one'")["p"] == 1).all()


def test_intervals_hold_the_value_and_are_nothing_for_one_example() -> None:
    found = made()
    table, curves = found.table(), found.curves()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert (table["low"] < table["high"]).all()
    ends = curves.query("direction == 'insertion' and count == [0, 4]")
    for column in ("faithfulness", "low", "high"):  # whatever the examples
        assert ends[column].tolist() == pytest.approx([0, 1, 0, 1])
    one = {name: getattr(found, name)[..., :1] for name in ("outputs", "random", "full", "empty")}
    alone = made(**one, examples=("a",))
    assert alone.table()[["low", "high"]].isna().all(axis=None)
    assert alone.curves()[["low", "high"]].isna().all(axis=None)
    assert alone.table()["value"].notna().all()


def test_examples_that_are_not_finite_are_left_out_of_their_curves_alone() -> None:
    found = made()
    found.outputs[0, 0, 1, 2] = np.nan
    found.random[3, 0, 2, 4] = np.inf
    table = found.table().set_index(["method", "measure"])
    kept = pooled(found, found.outputs[0, 0], [0, 1, 3, 4])
    assert table.loc[("one", "cpr"), "value"] == pytest.approx(auc(COUNTS / 4, kept))
    assert table["left_out"].tolist() == [1, 1, 0, 0, 0, 0]
    orders = [pooled(found, one[0], [0, 1, 2, 3] if number == 3 else None) for number, one in enumerate(found.random)]
    expected = [auc(COUNTS / 4, one) for one in orders]
    assert table.loc[("two", "cpr"), "random"] == pytest.approx(np.mean(expected))
    nothing = made(full=np.full(EXAMPLES, np.nan))
    assert nothing.table()[["value", "p"]].isna().all(axis=None)
    assert (nothing.table()["left_out"] == EXAMPLES).all()


def test_the_frame_has_the_faithfulness_of_each_example() -> None:
    found = made(full=np.array([6.0, 2.0, 5, 5, 5]), empty=np.array([2.0, 2.0, 1, 1, 1]))
    frame = found.frame.set_index(["method", "direction", "count", "example"])
    assert len(frame) == 2 * 2 * 4 * EXAMPLES
    assert frame.loc[("two", "deletion", 3, "c"), "output"] == found.outputs[1, 1, 2, 2]
    expected = (found.outputs[1, 1, 2, 2] - 1) / 4
    assert frame.loc[("two", "deletion", 3, "c"), "faithfulness"] == pytest.approx(expected)
    assert frame.xs("b", level="example")["faithfulness"].isna().all()  # it has no gap


def test_curves_come_back_from_their_file(tmp_path: Path) -> None:
    found = made()
    again = Faithfulness.load(found.save(tmp_path / "curves.safetensors"))
    assert again.table().equals(found.table())
    assert (again.methods, again.examples, again.provenance) == (found.methods, found.examples, found.provenance)
    with pytest.raises(al.StoreError):
        Faithfulness.load(tmp_path / "none.safetensors")
