"""What stands in for an ablated part."""

from ablationlens.ablations.base import Ablation as Ablation
from ablationlens.ablations.constants import Mean as Mean
from ablationlens.ablations.constants import Scale as Scale
from ablationlens.ablations.constants import Zero as Zero
from ablationlens.ablations.samples import Counterfactual as Counterfactual
from ablationlens.ablations.samples import GaussianNoise as GaussianNoise
from ablationlens.ablations.samples import Resample as Resample
