"""The public door: write the report to a file.

Nothing heavy is imported until it is called: `import ablationlens` loads this file and must not load plotly.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate import Scores
from ablationlens.masked_model import MaskedModel
from ablationlens.report.evidence import Given
from ablationlens.results import Attribution


def report(
    path: str | os.PathLike[str],
    model: MaskedModel | Sequence[MaskedModel],
    data: Batch,
    *,
    attributions: Mapping[str, Attribution] | Mapping[str, Mapping[str, Attribution]],
    scores: Scores | Mapping[str, Scores] | None = None,
    studies: Given | None = None,
    title: str | None = None,
) -> Path:
    """Write one HTML page that works offline: plotly, styles and data are all inside it (about 5 MB).

    Tables sort by their headings and are shown page by page where they are long. A table of ablations has up to 1 MB of
    attention patterns, which open from its heat map.

    A page has a section for each registry, for example one for rows and one for heads. For one registry::

        al.report("python.html", model, data, attributions={"COAR": coar, "leave-one-out": loo}, scores=scores)

    What else was found out about them, for example ``studies=[al.studies.fit_alpha(model, data)]``, is shown with it.

    For several, group attributions (and scores) by the title of their section::

        al.report(
            "python.html", [rows, heads], data,
            attributions={"Rows": {"COAR": a, "leave-one-out": b}, "Heads": {"COAR": c}},
            scores={"Rows": row_scores, "Heads": head_scores},
        )

    Attributions of several registries that are not grouped get a section for each registry, and each of the scores
    goes to the section that has its methods.

    Args:
        path: where to write; folders are made. An existing file is replaced at once, or not at all.
        model: the model that was asked, or several: one for each registry.
        data: the examples that were asked about.
        attributions: name of a method -> its attribution, or title of a section -> such a mapping. The first of a
            section is the one that its answer is drawn from.
        scores: what `evaluate` said of the attributions, or a mapping of such.
        studies: results of `al.studies`, `al.compare`, `al.ceiling`, `al.completeness`, `al.faithfulness`, `al.drift`,
            `al.ablation_table`, `al.domains` and `al.stability`: each is shown with its figures, a sentence and its
            table, in the section of its components. Title of a section -> several puts them where you want them.
        title: heading of the page; made from the question by default.

    Returns:
        The path of the page.

    Raises:
        InputError: if models, data, attributions, scores and studies do not belong together, or `path` is a folder.
    """
    from ablationlens.report.page import page

    target = Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a folder: give the file to write, for example {target / 'report.html'}")
    text = page(model, data, attributions=attributions, scores=scores, studies=studies, title=title)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes files that only their owner may read; a page is for others too.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target
