"""Put the page together: figures, tables and sentences of each section into one HTML text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ablationlens.data import Batch
from ablationlens.evaluate import Scores
from ablationlens.masked_model import MaskedModel
from ablationlens.plots import correlation, heads, histogram, layers, predicted_vs_true, ranking
from ablationlens.plots.labels import fixed, percent
from ablationlens.plots.theme import DARK, LIGHT, Theme
from ablationlens.report.answer import answer, heading, question
from ablationlens.report.evidence import Given
from ablationlens.report.facts import shown_alpha
from ablationlens.report.figures import Figure, figure_of
from ablationlens.report.finding import MARKED, Finding
from ablationlens.report.opened import Opened
from ablationlens.report.sections import Section, components, sections
from ablationlens.report.studies import Shown, shown
from ablationlens.report.tables import Entry, component_columns, examples, provenance_entries
from ablationlens.report.trust import GENERAL, trust
from ablationlens.results import Attribution

SCORE_HEADS = ["Method", "Alpha", "Pearson", "95% interval", "Spearman", "R²", "Slope", "Undefined"]
"""Of the table of scores; the last is left out where every correlation is defined."""

POINTS = 1500
"""Points of a scatter on the page: enough to see its shape, few enough to stay quick on a phone."""

SPREAD_FROM = 3
"""Examples from which a histogram of their correlations says something."""

TOP = 25
"""Components in a ranking on the page."""


@dataclass(frozen=True)
class View:
    """One section as the template needs it."""

    id: str
    title: str
    components: str
    answer: list[Markup]
    rankings: list[Figure]
    places: list[Figure]
    correlations: list[Figure]
    scatters: list[Figure]
    score_heads: list[tuple[str, bool]]
    scores: list[list[str]]
    columns: list[dict[str, Any]]
    trust: dict[str, list[Finding]]
    studies: list[Shown]
    methods: list[str]
    provenance: list[Entry]
    tested: list[Entry]

    @property
    def figures(self) -> list[Figure]:
        """All that are drawn."""
        drawn = [*self.rankings, *self.places, *self.correlations, *self.scatters]
        drawn += [figure for study in self.studies for figure in study.figures]
        return [*drawn, *(one.figure for one in self.opened)]

    @property
    def opened(self) -> list[Opened]:
        """What clicks on cells of heat maps open."""
        return [study.opened for study in self.studies if study.opened is not None]


def page(
    model: MaskedModel | Sequence[MaskedModel],
    data: Batch,
    *,
    attributions: Mapping[str, Attribution] | Mapping[str, Mapping[str, Attribution]],
    scores: Scores | Mapping[str, Scores] | None = None,
    studies: Given | None = None,
    title: str | None = None,
) -> str:
    """The HTML text that `report` writes; arguments as there.

    Raises:
        InputError: if models, data, attributions, scores and studies do not belong together.
    """
    found = sections(model, data, attributions, scores, studies)
    views = [_view(section, f"s{place}", data) for place, section in enumerate(found)]
    figures = [figure for view in views for figure in view.figures]
    content = {
        "figures": [{"id": figure.id, "height": figure.height, **figure.drawing} for figure in figures],
        "opened": [one.content for view in views for one in view.opened],
        "tables": {view.id: view.columns for view in views},
        "templates": {theme.name: _template(theme) for theme in (LIGHT, DARK)},
    }
    environment = Environment(
        loader=PackageLoader("ablationlens.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=title or heading(found),
        question=question(found, data),
        views=views,
        examples=examples(data),
        model=_model_entries(found),
        general=GENERAL,
        marked=MARKED,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        content=_script_json(content),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
    )


def _view(section: Section, key: str, data: Batch) -> View:
    attributions = section.attributions
    places: list[go.Figure] = []
    for attribution in (_named(method, attribution) for method, attribution in attributions.items()):
        kinds = set(attribution.weights["kind"].to_numpy().tolist())
        if kinds != {"head"}:
            places.append(layers(attribution))
        if "head" in kinds:
            places.append(heads(attribution))
    rankings = [ranking(_named(method, attribution), TOP) for method, attribution in attributions.items()]
    correlations: list[go.Figure] = []
    scatters: list[go.Figure] = []
    rows: list[list[str]] = []
    if section.scores is not None:
        correlations = [correlation(section.scores)]
        alpha = shown_alpha(section)
        scatters = [
            predicted_vs_true(section.scores, method, alpha, points=POINTS)
            for method in dict.fromkeys(method for method, tested in section.scores.predicted if tested == alpha)
        ]
        if attributions[section.main[0]].weights.sizes["example"] >= SPREAD_FROM:
            scatters.append(histogram(section.scores, alpha))
        rows = _score_rows(section.scores)
    return View(
        id=key,
        title=section.title,
        components=components(section.registry),
        answer=answer(section),
        rankings=[figure_of(figure, f"{key}-ranking-{i}") for i, figure in enumerate(rankings)],
        places=[figure_of(figure, f"{key}-place-{i}") for i, figure in enumerate(places)],
        correlations=[figure_of(figure, f"{key}-correlation-{i}") for i, figure in enumerate(correlations)],
        scatters=[figure_of(figure, f"{key}-scatter-{i}") for i, figure in enumerate(scatters)],
        score_heads=[
            (head, head != "Method")
            for head in (SCORE_HEADS if any(row[-1] != "0" for row in rows) else SCORE_HEADS[:-1])
        ],
        scores=rows if any(row[-1] != "0" for row in rows) else [row[:-1] for row in rows],
        columns=component_columns(section),
        studies=[shown(one, f"{key}-study-{i}", section.model, data) for i, one in enumerate(section.studies)],
        trust={method: trust(section, method) for method in attributions},
        methods=list(attributions),
        provenance=provenance_entries([attribution.provenance for attribution in attributions.values()]),
        tested=[] if section.scores is None else provenance_entries([section.scores.provenance]),
    )


def _named(method: str, attribution: Attribution) -> Attribution:
    """The attribution under the name that the report's caller gave it: two runs of one method stay apart."""
    return replace(attribution, method=method)


def _template(theme: Theme) -> dict[str, Any]:
    """The theme's template on a transparent ground: the page's own shows through."""
    template: dict[str, Any] = theme.template.to_plotly_json()
    template["layout"] |= {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    return json.loads(json.dumps(template, default=lambda value: value.to_plotly_json()))


def _score_rows(scores: Scores) -> list[list[str]]:
    rows: list[list[str]] = []
    for row in scores.table().to_dict("records"):
        numbers = [fixed(float(row[name])) for name in ("spearman", "r2", "slope")]
        interval = f"{fixed(float(row['low']))} to {fixed(float(row['high']))}"
        first = [str(row["method"]), percent(float(row["alpha"])), fixed(float(row["pearson"]), 3), interval]
        rows.append([*first, *numbers, f"{int(row['undefined']):,}"])
    return rows


def _model_entries(found: Sequence[Section]) -> list[Entry]:
    """Each section's model, its components, what stands in for them and what is measured, side by side."""
    return provenance_entries(
        [
            {
                "model": section.model.adapter.describe(),
                "components": components(section.registry),
                "ablation": section.model.ablation.describe(),
                "output": section.model.output.describe(),
            }
            for section in found
        ]
    )


def _script_json(content: Any) -> Markup:
    """JSON that may stand inside a script element: nothing in it can end the element or start a comment."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
