"""What a study says is computed from its table: small tables whose sentences can be written down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from ablationlens.evaluate import Comparison, Completeness
from ablationlens.report.catalogue import says_of as says
from ablationlens.report.says import UNDEFINED
from tests.plots.results import NAMES, ceilings, curves, gaps
from tests.plots.studies import NAN, broken, elsewhere, fitted_at, measured, sized, under

HIGH, LOW = 0.3, 0.05
OWN = "Fitted and tested at the same alpha, the mean correlation is 0.80 at 5% and 0.60 at 30%."


def fits(at_low: float, at_high: float) -> str:
    """Of fits at both alphas: fitted elsewhere and tested at the low alpha, and at the high one."""
    return says(fitted_at({(LOW, LOW): 0.8, (HIGH, LOW): at_low, (LOW, HIGH): at_high, (HIGH, HIGH): 0.6}))


def test_the_alpha_of_the_fit_that_hardly_matters() -> None:
    end = "Fitting at another alpha changes it by less than 0.01: the choice hardly matters here."
    assert fits(0.795, 0.592) == f"{OWN} {end}"
    assert fits(0.805, 0.6) == f"{OWN} {end}"


def test_the_alpha_of_the_fit_that_costs_or_gains() -> None:
    cost = "Fitting elsewhere costs up to 0.20: most where it was fitted at 5% and tested at 30%."
    gain = "Fitting elsewhere gains up to 0.10: most where it was fitted at 30% and tested at 5%."
    assert fits(0.79, 0.4) == f"{OWN} {cost}"
    assert fits(0.9, 0.595) == f"{OWN} {gain}"
    assert fits(0.9, 0.4) == f"{OWN} {cost} {gain}"


def test_fits_that_were_tested_where_they_were_made_alone_or_nowhere() -> None:
    assert says(fitted_at({(LOW, LOW): 0.8, (HIGH, HIGH): 0.6})) == OWN
    text = says(fitted_at({(0.02, LOW): 0.7, (HIGH, LOW): 0.75}))
    assert text.startswith("The highest correlation is 0.75, fitted at 30% and tested at 5%; none was tested where")
    assert says(fitted_at({(LOW, LOW): NAN})) == UNDEFINED
    assert says(fitted_at({(LOW, LOW): 0.8, (HIGH, HIGH): 0.6, (HIGH, LOW): NAN})) == OWN


def test_how_many_draws_are_enough() -> None:
    cosines = {25: 0.5, 100: 0.7, 400: 0.9}
    again = "Two independent attributions of 400 draws have a cosine of 0.900."
    enough = says(sized({25: 0.7, 100: 0.895, 400: 0.9}, cosines))
    assert enough == f"With 400 draws the mean correlation is 0.90; 100 draws already come within 0.01 of it. {again}"
    more = says(sized({25: 0.5, 100: 0.7, 400: 0.9}, cosines))
    assert more == (
        "With 400 draws the mean correlation is 0.90, 0.20 more than with 100: more draws would raise it further. "
        + again
    )
    assert says(sized({400: 0.9}, cosines)) == f"With 400 draws the mean correlation is 0.90. {again}"
    assert says(sized({400: 0.9}, {400: NAN})) == "With 400 draws the mean correlation is 0.90."
    assert says(sized({400: NAN}, cosines)) == UNDEFINED
    assert says(sized({100: 0.7, 400: NAN}, cosines)).startswith("With 100 draws the mean correlation is 0.70. Two")


def test_how_far_the_ablated_model_follows_the_whole_one() -> None:
    rows = {0.0: 1.0, 0.5: 0.4, 0.1: 0.95, 0.02: 0.99}  # in any order
    accuracy = {0.0: 0.75, 0.5: 0.25, 0.1: 0.5, 0.02: 0.7}
    follows = "the logit difference under ablation follows that of the whole model across 4 examples"
    assert says(broken(rows, accuracy)) == (
        f"Up to 10% ablated, {follows} (correlation 0.95); with 50% ablated the correlation is 0.40. "
        "The accuracy goes from 0.75 for the whole model to 0.50 with 10% ablated and 0.25 with 50% ablated."
    )
    unlabelled = dict.fromkeys(rows, NAN)
    assert says(broken({0.0: 1.0, 0.1: 0.95}, unlabelled)) == f"Up to 10% ablated, {follows} (correlation 0.95)."
    text = says(broken({0.0: 1.0, 0.1: 0.6, 0.5: 0.4}, unlabelled))
    assert text == (
        f"Not even with 10% ablated {follows} (correlation 0.60); with 50% ablated the correlation is 0.40."
    )


def test_too_few_examples_for_a_correlation_across_them() -> None:
    rows, accuracy = {0.0: NAN, 0.1: NAN}, {0.0: 1.0, 0.1: 0.5}
    falls = "The accuracy goes from 1.00 for the whole model to 0.50 with 10% ablated."
    one, two = (says(broken(rows, accuracy, examples=examples)) for examples in (1, 2))
    assert one == f"1 example is too few for a correlation across them. {falls}"
    assert two == f"2 examples are too few, or too alike, for a correlation across them. {falls}"


def test_what_stands_in() -> None:
    own = "Tested under the ablation that it was fitted under, the mean correlation is"
    both = {("a", "a"): 0.9, ("b", "a"): 0.6, ("a", "b"): 0.7, ("b", "b"): 0.8}
    assert says(under(both)) == (
        f"{own} 0.90 under a and 0.80 under b. Carried over to another ablation it is 0.60 at least (fitted under b, "
        "tested under a, where its slope is 0.50); the weights have a cosine of 0.80."
    )
    three = {**both, ("c", "a"): 0.65, ("a", "c"): NAN}
    assert says(under(three, cosine=-0.25)).endswith("the weights have a cosine of \u22120.25 or more.")
    assert says(under({("a", "a"): 0.9})) == f"{own} 0.90 under a."
    assert says(under({("a", "a"): NAN})) == UNDEFINED
    carried = says(under({("a", "a"): NAN, ("b", "a"): 0.5}, cosine=NAN))
    assert carried.startswith("Carried over to another ablation it is 0.50 at least")
    assert carried.endswith("where its slope is 0.50).")


def test_what_is_measured() -> None:
    three = measured({"margin": 0.7, "loss": 0.9, "logit": NAN}, {"margin": 1.0, "loss": -0.75, "logit": 0.5})
    assert says(three) == (
        "The mean correlation is 0.90 for the loss and 0.70 for the margin, each tested on its own output. The weights "
        "of the others have a cosine to those of the margin of \u22120.75 (loss) and 0.50 (logit). It is undefined for "
        "the logit."
    )
    one = "The mean correlation is 0.70 for the margin, each tested on its own output."
    assert says(measured({"margin": 0.7}, {"margin": 1.0})) == one
    assert says(measured({"margin": NAN}, {"margin": NAN})) == UNDEFINED


def test_other_examples() -> None:
    several = {"near": 0.9, "far": 0.5, "middle": 0.7}
    text = "On near the mean correlation is 0.90, on other domains 0.50 (far) to 0.70 (middle)"
    assert says(elsewhere(several, examples=5)) == f"{text}."
    assert says(elsewhere(several, examples=4)) == f"{text}; an interval of 4 examples is too narrow to be relied on."
    assert says(elsewhere({"near": 0.9}, examples=9)) == "On near the mean correlation is 0.90."
    assert says(elsewhere({"near": 0.9, "far": NAN}, examples=9)) == (
        "On near the mean correlation is 0.90. It is undefined on far."
    )
    assert says(elsewhere({"near": NAN, "far": 0.5}, examples=9)) == (
        "On near the mean correlation is undefined, on other domains 0.50 (far)."
    )
    assert says(elsewhere({"near": NAN})) == UNDEFINED


def compared(spearman: dict[tuple[str, str], float], differ: list[str] | None = None) -> Comparison:
    """(a, b) -> rank correlation; a = b is another seed of the same."""
    rows = [
        {"a": a, "b": b, "example": "x", "spearman": value, "pearson": 0.0, "cosine": 0.0}
        for (a, b), value in spearman.items()
    ]
    methods = tuple(dict.fromkeys(name for pair in spearman for name in pair))
    return Comparison(pd.DataFrame(rows), methods, (), 10, {"differ": differ or []})


def test_methods_that_agree() -> None:
    three = {("a", "b"): 0.9, ("a", "c"): 0.2, ("b", "c"): 0.5}
    most = "By rank correlation a and b agree most (0.90), a and c least (0.20)."
    assert says(compared(three)) == most
    seeds = " With another seed of itself a method agrees at 0.95 (a); two methods can be expected to agree at "
    seeds += "most at about the geometric mean of theirs."
    assert says(compared({**three, ("a", "a"): 0.95}, ["ablation", "output"])) == (
        f"{most}{seeds} They differ in their ablation and output."
    )
    assert says(compared({("a", "b"): 0.9})) == "By rank correlation a and b agree most (0.90)."
    assert says(compared({("a", "b"): NAN})) == "No rank correlation is defined: weights do not vary."


def test_how_far_it_is_from_the_ceiling() -> None:
    found = ceilings()
    assert says(found) == (
        f"COAR reaches 0.60 of at most 0.70 (10% ablated), COAR reaches 0.70 of at most 0.75 (5% ablated) and "
        f"{NAMES[1]} reaches 0.30 of at most 0.65 (10% ablated). More draws could bring {NAMES[1]} about 0.35."
    )
    below = replace(found, means=found.means.iloc[:1].assign(method="loo", pearson=0.9))
    assert says(below) == "Loo reaches 0.90 of at most 0.70 (10% ablated). More draws could bring loo about 0.00."
    none = replace(found, means=found.means.assign(ceiling=NAN))
    assert says(none) == "No ceiling is defined: two seeds agree no better than chance."


def test_whether_weights_add_up() -> None:
    start = "Between the sum of the weights and what all components do together there is a gap of"
    end = "Where it is large, weights are no shares of a whole."
    found = gaps()
    assert says(found) == f"{start} 25% for COAR and 50% for {NAMES[1]} of the latter. {end}"
    flat = Completeness(found.frame.assign(relative=NAN, change=0.0), {})
    assert says(flat) == f"{start} 2 for COAR and 4 for {NAMES[1]}. {end}"
    nothing = Completeness(found.frame.assign(gap=NAN), {})
    assert says(nothing) == "No gap is defined: outputs are not finite."


def test_whether_the_important_ones_carry_the_output() -> None:
    found = curves()
    table = found.table().set_index(["method", "measure"])
    best, line = (table.loc[(name, "cpr")] for name in NAMES)
    start = f"Keeping the most important components first gives an area (CPR) of {best['value']:.2f} (COAR) and "
    orders = f"; random orders {best['random_low']:.2f} to {best['random_high']:.2f}."
    assert says(found) == f"{start}{line['value']:.2f} ({NAMES[1]}){orders}"
    alone = replace(found, random=np.full_like(found.random, NAN))
    assert says(alone) == f"{start}{line['value']:.2f} ({NAMES[1]})."
    flat = replace(found, full=found.empty.copy())
    assert says(flat).startswith("Faithfulness is undefined: the output is the same with everything kept")
