"""What studies of domains and of stability say: means that are known, and tables that can be written down."""

from __future__ import annotations

import numpy as np

from ablationlens.report.says_domains import of_domains, of_stability
from tests.diagnostics.known_domains import CODE, COMMON, PROSE, around, study, three
from tests.diagnostics.known_stability import NAN, stable


def value(table: dict[tuple[str, str], dict[str, float]], a: str, b: str) -> str:
    row = table[a, b]
    return f"{row['similarity']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def test_the_most_and_the_least_similar_pair_and_how_far_noise_explains_it() -> None:
    found = study(three(noise=0.3))
    table = found.similarity().table().set_index(["domain", "other"]).to_dict("index")
    own = sorted((row["similarity"], a) for (a, b), row in table.items() if a == b)
    last = min((pair for pair in table if pair[0] != pair[1]), key=lambda pair: table[pair]["similarity"])
    assert of_domains(found) == (
        "The mean attributions of python and cpp are most alike, with a correlation of "
        f"{value(table, 'python', 'cpp')}; those of {last[0]} and {last[1]} least, with {value(table, *last)}. "
        f"Two samples of one domain would agree at {own[0][0]:.2f} ({own[0][1]}) to {own[-1][0]:.2f} ({own[-1][1]}): "
        "all 3 pairs are less alike than the noise of examples explains."
    )


def test_pairs_that_noise_explains() -> None:
    same = {name: around(COMMON, 12, 1.0, seed) for seed, name in enumerate("abc")}
    assert of_domains(study(same)).endswith(": no pair is less alike than the noise of examples explains.")
    other = {**same, "c": around(PROSE, 12, 1.0, 3)}
    assert of_domains(study(other)).endswith(": 2 of 3 pairs are less alike than the noise of examples explains.")


def test_two_domains_are_one_pair() -> None:
    two = {"a": around(COMMON + CODE, 9, 0.2, 0), "b": around(COMMON - CODE, 9, 0.2, 1)}
    text = of_domains(study(two))
    assert text.startswith("The mean attributions of a and b have a correlation of ")
    assert text.endswith(": the two are less alike than the noise of examples explains.")


def test_what_one_example_or_weights_without_variance_cannot_say() -> None:
    one = {name: weights[:1] for name, weights in three().items()}
    text = of_domains(study(one))
    assert "most alike" in text
    assert text.endswith("How far samples of one domain agree is not known, so that nothing follows from it.")
    flat = {name: np.ones((4, 40)) for name in "ab"}
    assert of_domains(study(flat)) == "No similarity is defined: mean attributions do not vary between components."


HALVES = "mean attributions of two halves of the examples, each with masks of its own, agree at"
REST = "What does not come back goes mostly with the"


def test_what_would_make_attributions_come_back() -> None:
    text = of_stability(stable({("data", 25): (0.2, 0.1, 0.3), ("data", 100): (0.6, 0.02, 0.36)}))
    assert text == (
        f"With 100 draws, {HALVES} 0.60 (0.56 to 0.62). {REST} examples (36% of the variance, against 2% with the "
        "masks): more examples would help."
    )
    text = of_stability(stable({("data", 100): (0.6, 0.36, -0.01)}))
    assert text == (
        f"With 100 draws, {HALVES} 0.60 (0.56 to 0.62). {REST} masks (36% of the variance, against 0% with the "
        "examples): more draws would help."
    )
    enough = of_stability(stable({("data", 100): (0.95, 0.01, 0.03)}))
    assert enough == f"With 100 draws, {HALVES} 0.95 (0.91 to 0.97)."


def test_data_sets_are_named_where_there_are_several() -> None:
    sets = {("a", 9): (0.6, 0.3, 0.1), ("b", 9): (0.5, 0.1, 0.3), ("c", 9): (0.95, 0.0, 0.04), ("d", 9): (NAN,) * 3}
    assert of_stability(stable(sets)) == (
        f"With 9 draws, {HALVES} 0.60 (0.56 to 0.62) for a, 0.50 (0.46 to 0.52) for b and 0.95 (0.91 to 0.97) for c. "
        f"{REST} examples for b (30% of the variance, against 10% with the masks): more examples would help. "
        f"{REST} masks for a (30% of the variance, against 10% with the examples): more draws would help. "
        "It is undefined for d."
    )
    nothing = stable({("d", 9): (NAN,) * 3})
    assert of_stability(nothing) == "No agreement is defined: mean attributions do not come back at all."
