"""Studies on the page: a figure, a sentence and a table each."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablationlens import studies
from ablationlens.errors import InputError
from ablationlens.evaluate import Faithfulness
from ablationlens.evaluate.studies import FitAlpha, ModelEffect, Study
from ablationlens.report import report
from ablationlens.report.belonging import fingerprint
from ablationlens.report.catalogue import says_of as says
from ablationlens.report.evidence import Evidence
from ablationlens.report.sections import sections
from ablationlens.report.studies import shown
from tests.evaluate.games import game, scales, weighted
from tests.plots.results import ceilings, comparison, curves, gaps
from tests.plots.studies import NAN, broken, elsewhere, fitted_at, measured, sized, under

STUDIES: list[Study] = [
    fitted_at({(0.05, 0.05): 0.8, (0.125, 0.05): 0.7}),
    sized({25: 0.7, 4000: 0.9}, {25: 0.5, 4000: 0.8}),
    broken({0.0: 1.0, 0.1: 0.95}, {0.0: 0.75, 0.1: 0.5}),
    under({("zero", "zero"): 0.9, ("<half>", "zero"): -0.6}),
    measured({"margin": 0.9, "loss": 0.4}, {"margin": 1.0, "loss": -0.5}),
    elsewhere({"near": 0.9, "far": 0.5}),
]
OTHERS: list[Evidence] = [ceilings(), gaps(), curves()]


def table_of(one: Evidence) -> dict[str, list[str]]:
    """Head -> cells."""
    found = shown(one, "key")
    return {head: [row[i] for row in found.rows] for i, (head, _) in enumerate(found.heads)}


@pytest.mark.parametrize("one", [*STUDIES, *OTHERS], ids=lambda one: type(one).__name__)
def test_each_has_a_question_an_answer_a_figure_and_a_table(one: Evidence) -> None:
    found = shown(one, "key")
    assert found.title.endswith("?")
    assert found.says == says(one) != ""
    assert [figure.id for figure in found.figures] == ["key-0", "key-1"][: 1 + isinstance(one, Faithfulness)]
    for figure in found.figures:
        assert figure.drawing["data"]
        assert figure.title
        assert not {"title", "template", "height"} & set(figure.drawing["layout"])
    assert len(found.rows) == len(one.table())
    assert {len(row) for row in found.rows} == {len(found.heads)}
    assert found.wide == (one in OTHERS or len(found.heads) > 7)


def test_questions_differ() -> None:
    assert len({shown(one, "key").title for one in [*STUDIES, *OTHERS]}) == 9


def test_numbers_as_people_write_them() -> None:
    assert table_of(STUDIES[0]) == {
        "Fit alpha": ["5%", "12.5%"],
        "Alpha": ["5%", "5%"],
        "Pearson": ["0.800", "0.700"],
        "95% interval": ["0.770 to 0.850", "0.670 to 0.750"],
        "Spearman": ["0.500", "0.500"],
        "R²": ["0.500", "0.500"],
        "Slope": ["0.500", "0.500"],
    }
    assert table_of(STUDIES[1])["Fit draws"] == ["25", "4,000"]
    negative = table_of(STUDIES[3])
    assert negative["Pearson"][1] == "\u22120.600"
    assert negative["Fitted"] == ["zero", "<half>"]  # the template escapes
    assert [number for head, number in shown(STUDIES[3], "key").heads if head in ("Fitted", "Pearson")] == [False, True]


def test_large_and_small_numbers() -> None:
    one = fitted_at({(0.05, 0.05): 0.8})
    table = one.table().assign(r2=-123456.0, slope=0.000123, spearman=0.0)
    cells = table_of(replace(one, summary=table))
    assert (cells["R²"], cells["Slope"], cells["Spearman"]) == (["\u22121.23e+05"], ["0.000123"], ["0.000"])


def test_what_is_undefined_is_a_dash_and_is_counted_where_there_is_some() -> None:
    cells = table_of(fitted_at({(0.05, 0.05): 0.8, (0.1, 0.05): NAN}))
    assert cells["Pearson"] == ["0.800", "—"]
    assert cells["95% interval"] == ["0.770 to 0.850", "—"]
    assert cells["Undefined"] == ["0", "2"]
    assert "Undefined" not in table_of(STUDIES[0])


def test_a_comparison_has_a_row_for_each_pair() -> None:
    model, data = game([1.0, -2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), scales(1, 2)
    one = weighted(model, data, np.random.default_rng(0).standard_normal((2, 8)))
    found = comparison(one, top=3)
    cells = table_of(found)
    assert cells["Pair"] == ["COAR, another seed", "COAR and leave-<b>one</b>-out"]
    means = found.table().set_index(["a", "b", "measure"])["mean"]
    for head, measure in (("Rank correlation", "spearman"), ("Cosine", "cosine"), ("Overlap of top 3", "top_3")):
        expected = [means["COAR", "COAR", measure], means["COAR", "leave-<b>one</b>-out", measure]]
        assert [float(cell.replace("\u2212", "-")) for cell in cells[head]] == pytest.approx(expected, abs=6e-4)
    assert len(cells) == 5


def test_faithfulness_names_its_measures_and_its_chance() -> None:
    cells = table_of(curves())
    assert set(cells["Measure"]) == {"CPR", "CMD", "deletion"}
    assert "Range of orders" in cells


def test_real_studies_are_shown_too() -> None:
    """What the functions return has the columns of the hand-made tables above."""
    model, data = game(np.linspace(-1, 1, 20)), scales(1, 2, 3)
    few: dict[str, Any] = {"fit_draws": 20, "draws": 4}
    outputs = {"value": lambda logits: logits[:, 0], "fallen": lambda logits: -logits[:, 0]}
    real: list[Study] = [
        studies.fit_alpha(model, data, fit_alphas=[0.1, 0.2], **few),
        studies.sample_size(model, data, fit_draws=[10, 20], alpha=0.1, draws=4),
        studies.model_effect(model, data, alphas=[0.1, 0.2], draws=4),
        studies.ablation_method(model, data, alpha=0.1, **few),
        studies.output_function(model, data, outputs=outputs, alpha=0.1, **few),
        studies.out_of_distribution(model, {"a": data, "b": scales(9)}, alpha=0.1, **few),
    ]
    for one, by_hand in zip(real, STUDIES, strict=True):
        assert one.table().columns.tolist() == by_hand.table().columns.tolist()
        found = shown(one, "key")
        assert found.says
        assert found.rows
        assert found.note.startswith("Cost" if isinstance(one, ModelEffect) else "Attributions by path gradient")
        assert "forward rows, a gradient counted as 3." in found.note
        assert found.provenance
        assert fingerprint(one) == model.registry.fingerprint


def test_the_note_says_what_made_it_and_what_it_cost() -> None:
    def note(**provenance: Any) -> str:
        return shown(replace(STUDIES[0], provenance={**STUDIES[0].provenance, **provenance}), "key").note

    cost = {"cost": {"parts": {}, "forward_rows": 12345}}
    assert note(fit_draws=1500, **cost) == (
        "Attributions by path gradient, 1,500 draws each. Cost: 12,345 forward rows, a gradient counted as 3."
    )
    assert note(fit_draws=[25, 50]) == note(fit_draws=None) == "Attributions by path gradient."
    assert note(cost={"parts": {"fits": None}, "forward_rows": None}) == "Attributions by path gradient."
    assert shown(STUDIES[2], "key").note == ""


def belonging(one: Any, run: Any) -> Any:
    """The same study, of the components of a run."""
    registry = {"components": len(run.model.registry), "fingerprint": run.model.registry.fingerprint}
    return replace(one, provenance={**one.provenance, "registry": registry})


def test_the_page_has_a_figure_and_a_table_for_each(world: Any, tmp_path: Path) -> None:
    run = world.heads
    given = [belonging(one, run) for one in STUDIES]
    path = report(tmp_path / "a.html", run.model, world.data, attributions=run.attributions, studies=given)
    text = path.read_text(encoding="utf-8")
    page = re.sub(r"<script>\s*/\*\*\s*\* plotly\.js.*?</script>", "", text, flags=re.S)
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', page, flags=re.S)
    assert found
    drawn = json.dumps(json.loads(found[1]))
    assert "What it depends on, and what else was tested" in page
    for i, one in enumerate(STUDIES):
        mine = shown(one, f"s0-study-{i}")
        assert mine.title in page
        for figure in mine.figures:
            assert page.count(f'id="{figure.id}"') == 1
            assert figure.id in drawn
        assert f'aria-label="Table: {mine.title}"' in page
    assert "&lt;half&gt;" in page
    assert "<half>" not in page
    without = report(tmp_path / "b.html", run.model, world.data, attributions=run.attributions)
    assert "What it depends on" not in without.read_text(encoding="utf-8")


def test_studies_go_to_the_section_of_their_components(world: Any) -> None:
    models = [world.rows.model, world.heads.model]
    named = {"Rows": world.rows.attributions, "Heads": world.heads.attributions}
    heads, rows = belonging(STUDIES[0], world.heads), belonging(STUDIES[1], world.rows)
    found = sections(models, world.data, named, None, [heads, rows])
    assert [section.studies for section in found] == [(rows,), (heads,)]
    with pytest.raises(InputError, match="is of other components than those of the sections 'Rows'"):
        sections(world.rows.model, world.data, {"Rows": world.rows.attributions}, None, [heads])


def test_a_saved_study_is_shown_as_before(tmp_path: Path) -> None:
    for one in (STUDIES[0], STUDIES[2]):
        back = type(one).load(one.save(tmp_path / type(one).__name__))
        assert isinstance(back, FitAlpha | ModelEffect)
        assert shown(back, "key") == shown(one, "key")


def test_what_was_made_with_something_else_says_so(world: Any) -> None:
    run = world.heads
    one = belonging(STUDIES[0], run)
    here = run.model.describe()
    same = replace(one, provenance={**one.provenance, **here, "data": {"fingerprint": world.data.fingerprint()}})
    assert "Made with" not in shown(same, "key", run.model, world.data).note
    other = {"output": {"output": "KL"}, "data": {"fingerprint": "x", "examples": 40}}
    note = shown(replace(same, provenance={**same.provenance, **other}), "key", run.model, world.data).note
    assert "Made with other examples (40) and another output (KL) than the rest of this section." in note
    several = {"output": {"a": {"output": "KL"}, "b": {"output": "Margin"}}}
    assert (
        "Made with"
        not in shown(replace(same, provenance={**same.provenance, **several}), "key", run.model, world.data).note
    )
