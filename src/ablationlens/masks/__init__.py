"""Where masks come from."""

from ablationlens.masks.designs import AllMasks as AllMasks
from ablationlens.masks.designs import Balanced as Balanced
from ablationlens.masks.designs import Bernoulli as Bernoulli
from ablationlens.masks.designs import Design as Design
from ablationlens.masks.designs import LeaveOneOut as LeaveOneOut
from ablationlens.masks.designs import Subset as Subset
from ablationlens.masks.paths import Paths as Paths
