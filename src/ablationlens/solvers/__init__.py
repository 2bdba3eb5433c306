"""Least squares, ridge and lasso for component attribution: arrays in, coefficients out.

COAR (arXiv 2404.11534) explains the outputs of a model under random ablations by one linear model per target:

    outputs[draw, target] ~ bias[target] + masks[draw, component] @ weights[target, component]

A target is an example, or anything else that has one number per draw. All solvers share one pass over the masks and
one factorisation over all targets, compute in float64 and return weights in the units of the outputs with the bias
kept (the paper's code saves weights of z-scored masks, whose size means something else).

**How.** The normal equations of the centred masks, whose matrix is called the *Gram* here. For hard masks (only 0 and
1) its entries are counts: float32 holds them exactly below 2^24 draws, so the products run in single precision, and
centring them is exact integer arithmetic too. What squaring loses on ill-conditioned designs is regained by
correcting the weights with residuals computed from the masks themselves.

**Cost.** draws * components^2 multiplications in float32 (float64 for partial gates) plus components^3 / 3 per
factorisation: one for least squares, about nine for ridge. Memory: 12 bytes * components^2 for least squares, 20 for
ridge and lasso; the masks are read in blocks and never copied whole. Ridge with fewer draws than components works on
a draws x draws matrix instead. Lasso is much slower: one coordinate descent per target and penalty.
"""

from ablationlens.solvers.by_name import SOLVERS as SOLVERS
from ablationlens.solvers.by_name import check_draws as check_draws
from ablationlens.solvers.by_name import check_solver as check_solver
from ablationlens.solvers.by_name import minimum_draws as minimum_draws
from ablationlens.solvers.fit import Fit as Fit
from ablationlens.solvers.lasso_regression import lasso as lasso
from ablationlens.solvers.ordinary_least_squares import least_squares as least_squares
from ablationlens.solvers.ridge_regression import ridge as ridge
