"""Methods: from outputs under masks to one weight per component."""

from ablationlens.attribution.attribute import attribute as attribute
from ablationlens.attribution.coar import coar as coar
from ablationlens.attribution.leave_one_out import leave_one_out as leave_one_out
from ablationlens.attribution.path_gradient import path_gradient as path_gradient
