"""Stochastic parameter decomposition: weights as rank-one components, and masks of them in three modes."""

from ablationlens.spd.adversary import Ascent as Ascent
from ablationlens.spd.adversary import Found as Found
from ablationlens.spd.decomposition import Decomposition as Decomposition
from ablationlens.spd.decomposition import Part as Part
from ablationlens.spd.functions import importance_function as importance_function
from ablationlens.spd.losses import Faithfulness as Faithfulness
from ablationlens.spd.losses import Minimality as Minimality
from ablationlens.spd.losses import Reconstruction as Reconstruction
from ablationlens.spd.modes import PGD as PGD
from ablationlens.spd.modes import Deterministic as Deterministic
from ablationlens.spd.modes import Stochastic as Stochastic
from ablationlens.spd.training import train as train
