"""Stochastic parameter decomposition: weights as rank-one components, and masks of them in three modes.

`ablation_experiment` and what belongs to it are named here too, and come from a floor above with the first call.
"""

import importlib
from typing import Any

from ablationlens.spd.adversary import Ascent as Ascent
from ablationlens.spd.adversary import Found as Found
from ablationlens.spd.bundled import bundled as bundled
from ablationlens.spd.bundled import card as card
from ablationlens.spd.decomposition import Decomposition as Decomposition
from ablationlens.spd.decomposition import Part as Part
from ablationlens.spd.functions import importance_function as importance_function
from ablationlens.spd.llama_simple import load_target as load_target
from ablationlens.spd.losses import Faithfulness as Faithfulness
from ablationlens.spd.losses import Minimality as Minimality
from ablationlens.spd.losses import Reconstruction as Reconstruction
from ablationlens.spd.modes import Deterministic as Deterministic
from ablationlens.spd.modes import Stochastic as Stochastic
from ablationlens.spd.pgd import PGD as PGD
from ablationlens.spd.saving import load as load
from ablationlens.spd.saving import save as save
from ablationlens.spd.singular import svd as svd
from ablationlens.spd.training import train as train

_ABOVE = ("Ablate", "AblationExperiment", "Restricted", "Whole", "ablation_experiment")


def __getattr__(name: str) -> Any:
    if name in _ABOVE:
        return getattr(importlib.import_module("ablationlens.spd_experiment"), name)
    raise AttributeError(f"module 'ablationlens.spd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ABOVE])
