"""What the methods of a configuration do: check themselves, say what they cost, and attribute."""

from __future__ import annotations

from pathlib import Path

from ablationlens.attribution.attribute import attribute
from ablationlens.attribution.coar import coar
from ablationlens.attribution.conductance import conductance, internal_influence
from ablationlens.attribution.costs import GRADIENT_COST, passes_of_paths
from ablationlens.attribution.leave_one_out import leave_one_out
from ablationlens.attribution.mask_gradient import gradient_x_parameter, integrated_gradients
from ablationlens.attribution.path_gradient import path_gradient, paths
from ablationlens.attribution.shapley import MASKS_PER_COMPONENT, ORDERS, shapley
from ablationlens.attribution.with_captum import captum_attr
from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import random_design
from ablationlens.results import Attribution
from ablationlens.runs import method_configs as configs
from ablationlens.runs.method_configs import MethodConfig
from ablationlens.solvers import check_draws


def check(method: MethodConfig, components: int, seed: int) -> None:
    """Find what would stop a method before anything runs.

    Args:
        method: with its alpha.
        components: how many there are.
        seed: of the run.

    Raises:
        InputError: if its masks cannot be drawn, or its draws are too few.
        MissingExtraError: if it is captum's, and that is not installed.
    """
    match method.choice[1]:
        case configs.AttributeConfig(alpha=float(alpha), budget=budget):
            random_design("bernoulli", components, alpha, budget, seed)
        case configs.PathGradientConfig(alpha=alpha, draws=draws, rho=rho):
            paths(components, alpha, draws, rho, None, seed)
        case configs.CoarConfig(alpha=alpha, draws=draws, design=design, solver=solver):
            random_design(design, components, alpha, draws, seed)
            check_draws(solver, draws, components)
        case configs.ShapleyConfig(method="sampling" | "kernel"):
            captum_attr()
        case configs.ConductanceConfig() | configs.InternalInfluenceConfig():
            captum_attr()
        case _:
            pass


def passes(method: MethodConfig, components: int) -> int | None:
    """What a method costs at most, in forward passes of the whole data; a gradient counts three.

    None where it depends on more than the number of components.
    """
    match method.choice[1]:
        case configs.AttributeConfig(budget=budget):
            return budget
        case configs.PathGradientConfig(draws=draws):
            return passes_of_paths(draws)
        case configs.CoarConfig(draws=draws):
            return draws + 1
        case configs.GradientXParameterConfig():
            return GRADIENT_COST
        case configs.IntegratedGradientsConfig(steps=steps):
            return GRADIENT_COST * steps + 2
        case configs.ShapleyConfig(method="exact"):
            return 2**components
        case configs.ShapleyConfig(method="kernel", samples=samples):
            return (samples or MASKS_PER_COMPONENT * components) + 2
        case configs.ShapleyConfig(samples=samples):
            return (samples or ORDERS) * components + 2
        case configs.LeaveOneOutConfig():
            return components + 1
        case _:
            return None


def run_method(method: MethodConfig, model: MaskedModel, data: Batch, *, seed: int, store: Path) -> Attribution:
    """Attribute by one method.

    Args:
        method: with its alpha.
        model: the masked model.
        data: the examples.
        seed: of the masks.
        store: where outputs are kept block by block, by the methods that need many forward passes.

    Raises:
        InputError: if the method does not fit the components.
        StoreError: if the store belongs to another run, is damaged, or cannot be written.
    """
    match method.choice[1]:
        case configs.AttributeConfig(alpha=float(alpha), budget=budget, tolerance=tolerance):
            return attribute(model, data, alpha=alpha, budget=budget, tolerance=tolerance, seed=seed)
        case configs.PathGradientConfig(alpha=alpha, draws=draws, rho=rho):
            return path_gradient(model, data, alpha=alpha, draws=draws, rho=rho, seed=seed)
        case configs.CoarConfig(alpha=alpha, draws=draws, design=design, solver=solver):
            return coar(model, data, alpha=alpha, draws=draws, seed=seed, design=design, solver=solver, store=store)
        case configs.GradientXParameterConfig():
            return gradient_x_parameter(model, data)
        case configs.IntegratedGradientsConfig(steps=steps):
            return integrated_gradients(model, data, steps=steps)
        case configs.LeaveOneOutConfig():
            return leave_one_out(model, data, store=store)
        case configs.ShapleyConfig(method=how, samples=samples):
            return shapley(model, data, method=how, samples=samples, seed=seed)
        case configs.ConductanceConfig(steps=steps):
            return conductance(model, data, steps=steps)
        case configs.InternalInfluenceConfig(steps=steps):
            return internal_influence(model, data, steps=steps)
        case other:
            raise AssertionError(f"no method is run for {other!r}")
