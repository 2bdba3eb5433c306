"""What the keys of a checkpoint of goodfire-ai/spd mean, in its present and its older versions.

A checkpoint holds the whole target model (``target_model.<path>``), the factors of each decomposed module
(``_components.<name>.V`` and ``.U``, and a copy of its bias) and its importance function
(``_ci_fns.<name>.layers.<i>.W`` and ``.b``), where name is the module's path with "-" for each ".".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from ablationlens.errors import InputError, StoreError
from ablationlens.layout import IDENTITY

TARGET, COMPONENTS, FUNCTIONS = "target_model.", "_components.", "_ci_fns."
GLOBAL = ("ci_fn._global_ci_fn.", "_global_ci_fn.")
OLD_PREFIXES = {"patched_model.": TARGET, "_gates.": FUNCTIONS, "ci_fn._ci_fns.": FUNCTIONS}
FACTORS = ("V", "U", "bias")


class State(NamedTuple):
    """A checkpoint, sorted by what its tensors are.

    Attributes:
        target: the target model's own, by its own names.
        components: path of each decomposed module -> "V", "U" and perhaps "bias".
        functions: path -> "layers.0.W" and so on.
    """

    target: dict[str, Tensor]
    components: dict[str, dict[str, Tensor]]
    functions: dict[str, dict[str, Tensor]]


def sorted_state(raw: Mapping[str, Tensor]) -> State:
    """Sort a checkpoint.

    Raises:
        StoreError: for a key that is none of a checkpoint, or a name that is no module's or could be two.
        InputError: for a global importance function, which is not supported.
    """
    state = _present_names(raw)
    target = {key.removeprefix(TARGET): value for key, value in state.items() if key.startswith(TARGET)}
    if not target:
        raise StoreError(f"the key {TARGET}... is missing: a checkpoint of goodfire-ai/spd holds its target model")
    paths = _dashed(_modules(target))
    components: dict[str, dict[str, Tensor]] = {}
    functions: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith(TARGET):
            continue
        prefix = next((prefix for prefix in (COMPONENTS, FUNCTIONS) if key.startswith(prefix)), None)
        name, _, rest = key.removeprefix(prefix or "").partition(".")
        if prefix is None or not rest or (prefix == COMPONENTS and rest not in FACTORS):
            raise StoreError(
                f"the key {key} is one too many: no checkpoint of goodfire-ai/spd that is read here has it"
            )
        kept = components if prefix == COMPONENTS else functions
        kept.setdefault(_resolve(name, paths, key), {})[rest] = value
    return State(target, components, functions)


def _present_names(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys as the present version writes them."""
    found: dict[str, Tensor] = {}
    for key, value in raw.items():
        if key.startswith(GLOBAL):
            raise InputError(
                f"{key}: the importances of this run come from one global function of all modules at once, which is "
                "not supported; runs of layer-wise functions are (ci_fn_type mlp, vector_mlp or shared_mlp)"
            )
        name = _present_name(key)
        if name in found:
            raise StoreError(f"the keys {name} and {key} are one too many: they name the same tensor")
        found[name] = value
    return found


def _present_name(key: str) -> str:
    for old, new in OLD_PREFIXES.items():
        if key.startswith(old):
            key = new + key.removeprefix(old)
    path, _, last = key.rpartition(".")
    if path.endswith(".components") and last in FACTORS and key.startswith(TARGET):
        module = path.removeprefix(TARGET).removesuffix(".components")
        return f"{COMPONENTS}{module.replace('.', '-')}.{last}"
    if path.endswith(".original"):  # of a module that once stood inside its components
        return f"{path.removesuffix('.original')}.{last}"
    return key


def _modules(target: Iterable[str]) -> set[str]:
    """Paths of the target's modules, and of identities that may stand before them."""
    found: set[str] = set()
    for key in target:
        steps = key.split(".")[:-1]
        found.update(".".join(steps[:count]) for count in range(1, len(steps) + 1))
    return found | {f"{path}.{IDENTITY}" for path in found}


def _dashed(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        found.setdefault(path.replace(".", "-"), []).append(path)
    return found


def _resolve(name: str, paths: Mapping[str, list[str]], key: str) -> str:
    """The module that a name with dashes is of: names of modules may hold dashes themselves."""
    fitting = paths.get(name, [])
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise StoreError(f"the key {key} could be of {' or '.join(fitting)}")
    raise StoreError(f"the key {key} is one too many: the target model has no module of that name")
