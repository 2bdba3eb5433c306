"""That every requirement of SPD (facts/spd.md, section 5: 1 to 30) is held by a test of its number.

All thirty apply. What is left out of some, and why:

| requirement | left out | because |
|---|---|---|
| 1 | the subtractive form | the one here never forms the remainder; it is bit-equal all the same |
| 8 | noise of binomial importances | importances are of the lower sigmoid without noise, at any sampling |
| 13, 15 | other draws, cold starts | not claimed there either: only what an ascent began with bounds it from below |
| 18 | [B, n_heads, T, T] | patterns have the axes mode, ablation and layer too |
| 22 | a ValueError | `al.InputError`, which is one; one set of gates for all rows is [1, C] as a mask of a model |
| 24 | identities, embeddings, MLPs | their components write no features that are one head's |
| 25 | logits of goodfire-ai/spd itself | a float64 einsum from section 1 instead, as issue 6 asks |
| 30 | the hash of a checkpoint | a fingerprint of the weights, and one of the decomposition |
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import ablationlens as al

TESTS = Path(__file__).parents[1]


def test_every_requirement_has_a_test_of_its_number() -> None:
    found: set[int] = set()
    for path in [*(TESTS / "spd").glob("test_*.py"), *(TESTS / "spd_experiment").glob("test_*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match = re.match(r"test_spd_requirement_(\d\d)_", node.name) if isinstance(node, ast.FunctionDef) else None
            if match:
                found.add(int(match[1]))
    assert found == set(range(1, 31))


def test_what_is_refused_is_a_value_error() -> None:
    assert issubclass(al.InputError, ValueError)
