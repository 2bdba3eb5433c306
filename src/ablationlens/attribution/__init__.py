"""Methods: from outputs under masks to one weight per component."""

from ablationlens.attribution.attribute import attribute as attribute
from ablationlens.attribution.coar import coar as coar
from ablationlens.attribution.conductance import conductance as conductance
from ablationlens.attribution.conductance import internal_influence as internal_influence
from ablationlens.attribution.direct_effect import direct_effect as direct_effect
from ablationlens.attribution.leave_one_out import leave_one_out as leave_one_out
from ablationlens.attribution.mask_gradient import gradient_x_parameter as gradient_x_parameter
from ablationlens.attribution.mask_gradient import integrated_gradients as integrated_gradients
from ablationlens.attribution.patching import activation_patching as activation_patching
from ablationlens.attribution.patching import attribution_patching as attribution_patching
from ablationlens.attribution.patching import normalised as normalised
from ablationlens.attribution.path_gradient import path_gradient as path_gradient
from ablationlens.attribution.shapley import shapley as shapley
