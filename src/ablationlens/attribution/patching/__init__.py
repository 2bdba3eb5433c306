"""Activation patching and attribution patching: what a part carries from a clean input to the output.

Two inputs differ in what matters: the model does on the clean one what it fails to do on the corrupt one. Activation
patching (Vig et al., arXiv 2004.12265; Meng et al., arXiv 2202.05262) runs one of them with the activation of one
component taken from the other. Attribution patching (Syed et al., arXiv 2310.10348) is its first-order estimate, the
gradient times the difference of the activations, for all components at once.

Both come in two directions (Heimersheim and Nanda, arXiv 2404.15255) with one sign: a gate of 1 means that a component
holds its clean activation, 0 its corrupt one, and a weight is what the clean one adds to the output.

| direction | runs | puts in | weight of a component | asks |
|---|---|---|---|---|
| denoising | the corrupt input | its clean activation | f(patched) - f(corrupt) | is it enough? |
| noising | the clean input | its corrupt activation | f(clean) - f(patched) | is it needed? |

In TransformerLens, `get_act_patch_*` gives f(patched). Given the corrupt tokens and the clean cache that is denoising,
and ``effect()`` of its result is our weight; given the clean tokens and the corrupt cache it is noising, and
``effect()`` is minus our weight. `attribution_patch` there is denoising and has our sign; with its two inputs
exchanged it is noising, with the opposite sign.
"""

from ablationlens.attribution.patching.activation import activation_patching as activation_patching
from ablationlens.attribution.patching.first_order import attribution_patching as attribution_patching
from ablationlens.attribution.patching.normalised import normalised as normalised
