"""Does `al.spd.train` recover the toy model of superposition? Five sparse features in two dimensions, tied weights.

    python benchmarks/spd_tms.py [--seeds 0 1] [--steps 10000] [--rows 1024]    # about six minutes a seed on one core

The target y = relu(W^T W x + b) is trained first, on features that are on with probability 0.05 and then uniform from 0
to 1, until each has a direction of its own. Its two matrices are then decomposed as in the toy model of arXiv
2506.20790, section 3.1. What they should be is known: one component for each feature, a column of W in the first matrix
and a row of W^T in the second.

Three settings differ from those of goodfire-ai/spd (20 components, "mlp", 3e-3), with which one of the two seeds fails.
Importance functions read the whole input of a module ("vector_mlp"): a component's code alone does not tell which
feature made it, and two features come to share components. There are 60 components to begin with, so that each feature
finds one near its own direction, and the coefficient of minimality is 5e-3: with 3e-3 a second component of a feature
may stay at an importance just above 0.1.

A component lives for a feature where its mean importance is above 0.1 over inputs that have this feature on, at a
random size from 0 to 1, and the others as in training. Recovered is a matrix in which each feature has exactly one live
component, a different one for each, whose cosine with the feature's own vector, its column of W or its row of W^T, is
above 0.95. Two figures stand beside it, which 1.00 would make perfect: the cosine of the component's whole matrix with
one that holds that vector alone, and the length of the vector in the component over that in the target. The exit code
is 1 if a matrix is not recovered.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.spd import Decomposition, Minimality, Reconstruction, train

FEATURES, HIDDEN, COMPONENTS = 5, 2, 60
MINIMALITY = 5e-3
ON = 0.05
"""Probability that a feature is on."""
ALIVE, GOAL = 0.1, 0.95
PROBES = 4000
"""Random inputs for each feature."""


class Superposition(nn.Module):
    """Features squeezed through fewer dimensions and read out again."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.squeeze = nn.Linear(FEATURES, HIDDEN, bias=False)
        self.read = nn.Linear(HIDDEN, FEATURES)
        with torch.no_grad():
            self.squeeze.weight.copy_(weight)
            self.read.weight.copy_(weight.T)
            self.read.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.squeeze(x)).relu()


def sparse(rows: int, generator: torch.Generator) -> Tensor:
    """Random inputs, most features of which are 0."""
    on = torch.rand(rows, FEATURES, generator=generator) < ON
    return on * torch.rand(rows, FEATURES, generator=generator)


def target(seed: int, steps: int) -> Superposition:
    """The model to be decomposed, trained to give its input back."""
    generator = torch.Generator().manual_seed(seed)
    weight = (0.5 * torch.randn(HIDDEN, FEATURES, generator=generator)).requires_grad_()
    bias = torch.zeros(FEATURES, requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], lr=5e-3, weight_decay=0.0)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        x = sparse(1024, generator)
        loss = ((x @ weight.T @ weight + bias).relu() - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Superposition(weight.detach(), bias.detach()).eval()


@dataclass(frozen=True)
class Recovery:
    """What a feature has in one matrix.

    Attributes:
        live: its components.
        cosine: of the feature's vector in the first of them with that in the matrix; 0 if there is none.
        whole: cosine of that component with a matrix that holds the feature's vector alone.
        length: of the feature's vector in the component, over that in the matrix.
    """

    live: list[int]
    cosine: float = 0.0
    whole: float = 0.0
    length: float = 0.0


def recoveries(adapter: al.Adapter, decomposition: Decomposition, seed: int) -> dict[str, list[Recovery]]:
    """For each matrix what each feature has."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Recovery]] = {where[1]: [] for where in decomposition.places}
    for feature in range(FEATURES):
        x = sparse(PROBES, generator)
        x[:, feature] = torch.rand(PROBES, generator=generator)
        for where, importance in decomposition.importances(adapter, al.batch(x)).items():
            part, weight = decomposition[where], adapter.weight(*where).detach()
            own = (slice(None), feature) if where[1] == "squeeze" else feature
            live = (importance.mean(0) > ALIVE).nonzero()[:, 0].tolist()
            one = Recovery(live)
            if live:
                component = torch.outer(part.U[live[0]], part.V[:, live[0]]).detach()
                vector, wanted = component[own], weight[own]
                aligned = float(vector @ wanted / wanted.norm())
                one = Recovery(
                    live,
                    aligned / float(vector.norm().clamp(min=1e-30)),
                    aligned / float(component.norm().clamp(min=1e-30)),
                    float(vector.norm() / wanted.norm()),
                )
            found[where[1]].append(one)
    return found


def recovered(features: list[Recovery]) -> bool:
    """Whether each feature has exactly one live component of its own, which is its part of the matrix."""
    first = {one.live[0] for one in features if len(one.live) == 1}
    return len(first) == len(features) and all(one.cosine > GOAL for one in features)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--target-steps", type=int, default=5000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, torch {torch.__version__}, 1 thread, {FEATURES} features in {HIDDEN} dimensions, "
        f"{COMPONENTS} components a matrix, {arguments.steps} steps of {arguments.rows} rows"
    )
    met = True
    for seed in arguments.seeds:
        model = target(seed, arguments.target_steps)
        adapter = al.adapt(model, example=torch.zeros(2, FEATURES))

        def data(step: int, seed: int = seed) -> al.Batch:
            generator = torch.Generator().manual_seed(10_000_019 * (seed + 1) + step)
            return al.batch(sparse(arguments.rows, generator))

        start = time.perf_counter()
        decomposition = train(
            adapter,
            None,
            COMPONENTS,
            data,
            steps=arguments.steps,
            losses=[Minimality(MINIMALITY), Reconstruction(), Reconstruction(routing="layerwise")],
            output="mse",
            importance="vector_mlp",
            seed=seed,
        )
        seconds = time.perf_counter() - start
        errors = dict(zip(*decomposition.reconstruction(adapter)[["module", "relative"]].T.to_numpy(), strict=True))
        lengths = model.squeeze.weight.detach().norm(dim=0)
        print(f"\nseed {seed}: {seconds:.0f} s; lengths of the target's features {[f'{x:.2f}' for x in lengths]}")
        for name, features in recoveries(adapter, decomposition, seed).items():
            good = recovered(features)
            met = met and good
            print(f"{name:8} error {errors[name]:.4f}  {'recovered' if good else 'NOT RECOVERED'}")
            for feature, one in enumerate(features):
                print(
                    f"  feature {feature}: live {one.live}, cosine {one.cosine:.3f}, of the whole component "
                    f"{one.whole:.3f}, length {one.length:.3f}",
                    flush=True,
                )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
