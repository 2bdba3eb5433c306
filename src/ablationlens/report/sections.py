"""What belongs together: attributions of one registry, with the model and the scores that go with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate import Scores
from ablationlens.evaluate.checks import fingerprint
from ablationlens.masked_model import MaskedModel
from ablationlens.plots.labels import counted
from ablationlens.registry import Registry
from ablationlens.report.belonging import by_section
from ablationlens.report.evidence import Evidence, Given
from ablationlens.results import Attribution, of_components


@dataclass(frozen=True)
class Section:
    """Attributions of the same components, and what was said of them.

    Attributes:
        title: heading.
        model: the model that they are of.
        attributions: by name of method; the first is the main one.
        scores: how well they predict held-out ablations, if that was measured.
        studies: what else was found out about them.
    """

    title: str
    model: MaskedModel
    attributions: Mapping[str, Attribution]
    scores: Scores | None
    studies: tuple[Evidence, ...] = ()

    @property
    def registry(self) -> Registry:
        return self.model.registry

    @property
    def main(self) -> tuple[str, Attribution]:
        """The attribution that the answer is drawn from."""
        return next(iter(self.attributions.items()))


def sections(
    model: MaskedModel | Sequence[MaskedModel],
    data: Batch,
    attributions: Mapping[str, Any],
    scores: Scores | Mapping[str, Scores] | None,
    studies: Given | None = None,
) -> list[Section]:
    """Check that the arguments of a report belong together, and group them.

    Raises:
        InputError: if they do not.
    """
    if not attributions:
        raise InputError('a report needs an attribution: attributions={"COAR": al.coar(model, data, ...)}')
    models = list(model) if isinstance(model, Sequence) else [model]
    groups = _groups(attributions)
    for named in groups.values():
        for name, attribution in named.items():
            examples = attribution.weights.sizes["example"]
            if examples != len(data):
                raise InputError(
                    f"attribution {name!r} has {counted(examples, 'example')} and the data {len(data):,}: "
                    "give the batch that it was made with"
                )
            if fingerprint(attribution) not in (None, data.fingerprint()):
                raise InputError(
                    f"attribution {name!r} is of other data (inputs, labels or scored positions): give the batch that "
                    "it was made with"
                )
    found = _scores(groups, scores)
    fingerprints = {title: next(iter(named.values())).registry.fingerprint for title, named in groups.items()}
    evidence = by_section(studies, fingerprints)
    return [
        Section(title, _model(models, named, title), named, found.get(title), evidence.get(title, ()))
        for title, named in groups.items()
    ]


def components(registry: Registry) -> str:
    """How many components of which kinds: ``4,608 rows and 16 heads``."""
    counts: dict[str, int] = {}
    for part in registry.parts:
        counts[part.site.kind] = counts.get(part.site.kind, 0) + len(part.indices)
    words = {
        "rank_one": "rank-one part",
        "row_block": "row block",
        "matrix": "matrix",
        "custom": "custom component",
        "head_query": "query head",
        "head_value": "value head",
    }
    texts = [counted(count, words.get(kind, kind)).replace("matrixs", "matrices") for kind, count in counts.items()]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _groups(attributions: Mapping[str, Any]) -> dict[str, dict[str, Attribution]]:
    nested = [isinstance(value, Mapping) for value in attributions.values()]
    groups: dict[str, dict[str, Attribution]] = {}
    if all(nested):
        groups = {title: _of_components(named) for title, named in attributions.items()}
        for title, named in groups.items():
            if not named:
                raise InputError(f"section {title!r} has no attribution: leave it out")
            registries = [attribution.registry for attribution in named.values()]
            if any(registry != registries[0] for registry in registries):
                raise InputError(f"attributions of section {title!r} are of different components: one section for each")
        return groups
    if any(nested):
        raise InputError('attributions are either all in sections, {"Rows": {"COAR": a}}, or none is, {"COAR": a}')
    by_registry: dict[Registry, dict[str, Attribution]] = {}
    for name, attribution in _of_components(attributions).items():
        by_registry.setdefault(attribution.registry, {})[name] = attribution
    for registry, named in by_registry.items():
        title = components(registry)
        groups[title if title not in groups else f"{title} ({', '.join(named)})"] = named
    return groups


def _of_components(named: Mapping[str, Any]) -> dict[str, Attribution]:
    return {name: of_components(value, "a report") for name, value in named.items()}


def _model(models: Sequence[MaskedModel], named: Mapping[str, Attribution], title: str) -> MaskedModel:
    registry = next(iter(named.values())).registry
    for model in models:
        if model.registry == registry:
            return model
    raise InputError(
        f"no model was given for {title!r} ({components(registry)}): the models have "
        f"{'; '.join(components(model.registry) for model in models)}. Give one for each registry: [rows, heads]"
    )


def _scores(
    groups: Mapping[str, Mapping[str, Attribution]], scores: Scores | Mapping[str, Scores] | None
) -> dict[str, Scores]:
    if scores is None:
        return {}
    if isinstance(scores, Mapping) and set(scores) <= set(groups):
        found = dict(scores)
    else:
        found = {}
        for each in scores.values() if isinstance(scores, Mapping) else [scores]:
            methods = set(each.frame["method"])
            fitting = [title for title, named in groups.items() if methods & set(named) and title not in found]
            if not fitting:
                raise InputError(
                    f"scores of {_quoted(methods)} fit no section: the sections are "
                    + "; ".join(f"{title!r} with {_quoted(named)}" for title, named in groups.items())
                    + '. Name them after the sections: scores={"Rows": row_scores}'
                )
            if len(fitting) > 1:
                raise InputError(
                    f"scores of {_quoted(methods)} fit several sections ({_quoted(fitting)}): name them after one, "
                    f"scores={{{fitting[0]!r}: scores}}"
                )
            found[fitting[0]] = each
    for title, each in found.items():
        if not set(each.frame["method"]) & set(groups[title]):
            raise InputError(
                f"scores of section {title!r} are of {_quoted(set(each.frame['method']))}, its attributions are "
                f"{_quoted(groups[title])}: use the same names in evaluate(...) and report(...)"
            )
    return found


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
