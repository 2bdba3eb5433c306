"""The finding of an ablation experiment, against its tables."""

from __future__ import annotations

from typing import Any

import pytest

from ablationlens.report.says_spd import of_ablation_experiment
from ablationlens.spd import Deterministic, Stochastic
from ablationlens.spd_experiment import Whole, ablation_experiment
from tests.conftest import host_of
from tests.spd.small import decomposed


def said(ablate: Any, **options: Any) -> tuple[str, Any]:
    host = host_of("torch", "gpt2")
    own = decomposed(host)
    modes = [Whole(own), Deterministic(own), Stochastic(own, 2)]
    found = ablation_experiment(
        host.adapter, own, host.data(2), ablate, modes=modes, patterns=None, gaps="whole", **options
    )
    return of_ablation_experiment(found), found.table().set_index(["mode", "ablation"])


def test_it_names_what_is_missed_most_and_the_gaps_that_are_larger() -> None:
    text, table = said({"a": "L0.attn.q rank_one 1", "none": None}, free={"b": "L0.attn.q rank_one 1"})
    effect = table.loc[("stochastic", "a")]
    assert text.startswith(f"Predictions change most without a: by {table.loc[('whole', 'a'), 'kl']:.3f} in whole, ")
    assert f"{effect['kl']:.3f} \u00b1 {effect['kl_se']:.3f} in stochastic (KL, nats)." in text
    assert f"further from the target than that: {table.loc[('deterministic', 'a'), 'gap_kl']:.3f} in determ" in text
    assert "in whole, where" not in text  # the target has no gap


def test_it_says_where_modes_differ() -> None:
    text, table = said({"a": "L1.mlp.out remainder", "b": "L0.attn.q rank_one 1"})
    assert table.loc[("deterministic", "a"), "kl"] == 0  # which leaves remainders out
    assert "differs: without a in whole, by" in text
    assert f"without b in deterministic, by {table.loc[('deterministic', 'b'), 'kl']:.3f}" in text


@pytest.mark.parametrize("ablate", [{"none": None}])
def test_nothing_is_said_of_nothing(ablate: Any) -> None:
    assert said(ablate)[0] == "Nothing was ablated."
