"""AblationLens: what would the output be if these parts were gone?

Everything public is named here. Importing the package loads no host library and no plotting library: those come with
the first call that needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ablationlens.ablations import Ablation as Ablation
from ablationlens.ablations import Counterfactual as Counterfactual
from ablationlens.ablations import GaussianNoise as GaussianNoise
from ablationlens.ablations import Mean as Mean
from ablationlens.ablations import Resample as Resample
from ablationlens.ablations import Scale as Scale
from ablationlens.ablations import Zero as Zero
from ablationlens.adapters.architectures import Architecture as Architecture
from ablationlens.adapters.base import Adapter as Adapter
from ablationlens.adapters.dispatch import adapt as adapt
from ablationlens.attribution import activation_patching as activation_patching
from ablationlens.attribution import attribute as attribute
from ablationlens.attribution import attribution_patching as attribution_patching
from ablationlens.attribution import coar as coar
from ablationlens.attribution import conductance as conductance
from ablationlens.attribution import direct_effect as direct_effect
from ablationlens.attribution import gradient_x_parameter as gradient_x_parameter
from ablationlens.attribution import integrated_gradients as integrated_gradients
from ablationlens.attribution import internal_influence as internal_influence
from ablationlens.attribution import leave_one_out as leave_one_out
from ablationlens.attribution import normalised as normalised
from ablationlens.attribution import path_gradient as path_gradient
from ablationlens.attribution import shapley as shapley
from ablationlens.basis import Basis as Basis
from ablationlens.custom import CustomSite as CustomSite
from ablationlens.custom import custom_site as custom_site
from ablationlens.data import Batch as Batch
from ablationlens.data import batch as batch
from ablationlens.diagnostics import AblationTable as AblationTable
from ablationlens.diagnostics import Domains as Domains
from ablationlens.diagnostics import Drift as Drift
from ablationlens.diagnostics import Stability as Stability
from ablationlens.diagnostics import ablation_table as ablation_table
from ablationlens.diagnostics import attention_patterns as attention_patterns
from ablationlens.diagnostics import attention_summary as attention_summary
from ablationlens.diagnostics import domains as domains
from ablationlens.diagnostics import drift as drift
from ablationlens.diagnostics import stability as stability
from ablationlens.dictionary import Dictionary as Dictionary
from ablationlens.errors import AblationLensError as AblationLensError
from ablationlens.errors import AdapterError as AdapterError
from ablationlens.errors import ConfigError as ConfigError
from ablationlens.errors import InputError as InputError
from ablationlens.errors import MissingExtraError as MissingExtraError
from ablationlens.errors import OverlapError as OverlapError
from ablationlens.errors import StoreError as StoreError
from ablationlens.errors import UnknownNameError as UnknownNameError
from ablationlens.evaluate import Ceiling as Ceiling
from ablationlens.evaluate import Comparison as Comparison
from ablationlens.evaluate import Completeness as Completeness
from ablationlens.evaluate import Faithfulness as Faithfulness
from ablationlens.evaluate import Scores as Scores
from ablationlens.evaluate import ceiling as ceiling
from ablationlens.evaluate import compare as compare
from ablationlens.evaluate import completeness as completeness
from ablationlens.evaluate import evaluate as evaluate
from ablationlens.evaluate import faithfulness as faithfulness
from ablationlens.explain import Explanation as Explanation
from ablationlens.explain import explain as explain
from ablationlens.masked_model import MaskedModel as MaskedModel
from ablationlens.masks import AllMasks as AllMasks
from ablationlens.masks import Balanced as Balanced
from ablationlens.masks import Bernoulli as Bernoulli
from ablationlens.masks import Design as Design
from ablationlens.masks import LeaveOneOut as LeaveOneOut
from ablationlens.masks import Paths as Paths
from ablationlens.masks import Subset as Subset
from ablationlens.outputs import KL as KL
from ablationlens.outputs import CrossEntropy as CrossEntropy
from ablationlens.outputs import Logit as Logit
from ablationlens.outputs import LogitDifference as LogitDifference
from ablationlens.outputs import Margin as Margin
from ablationlens.outputs import Output as Output
from ablationlens.outputs import PatternMass as PatternMass
from ablationlens.outputs import SquaredError as SquaredError
from ablationlens.outputs import TapOutput as TapOutput
from ablationlens.registry import Registry as Registry
from ablationlens.report import report as report
from ablationlens.results import Attribution as Attribution
from ablationlens.results import AttributionByPosition as AttributionByPosition
from ablationlens.sites import Component as Component
from ablationlens.sites import Pattern as Pattern
from ablationlens.sites import Site as Site
from ablationlens.sites import Tap as Tap

if TYPE_CHECKING:
    from ablationlens import plots as plots
    from ablationlens import spd as spd
    from ablationlens import zoo as zoo
    from ablationlens.evaluate import studies as studies

__version__ = "0.1.0"

_LAZY = {
    "plots": "ablationlens.plots",
    "spd": "ablationlens.spd",
    "studies": "ablationlens.evaluate.studies",
    "zoo": "ablationlens.zoo",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(_LAZY[name])
    raise AttributeError(f"module 'ablationlens' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
