"""What a user types by mistake, run without the type checks of the tests, which would be there first.

Every line of `CALLS` is run in one process of its own, and is to end in an error of the library's own that says what to
type instead: never in one of PyTorch's or Python's, and never in a number.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PREPARED = """
import json, sys
import numpy as np, torch
import ablationlens as al
from ablationlens.spd import *
from ablationlens.spd import AblationExperiment, Restricted, ablation_experiment
from ablationlens.spd.forward import Gates
from tests import models
torch.manual_seed(0)
nan, inf = float("nan"), float("inf")
net = models.mlp()
adapter = al.adapt(net, example=torch.randn(1, 10))
data = al.batch(torch.randn(4, 10))
d = svd(adapter, None, 3)
V, U = torch.randn(5, 3), torch.randn(3, 4)
part = Part(V, U)
folder = sys.argv[1]
shares = d.importances(adapter, data)
def learn(**options):
    settings = dict(modules=None, n_components=2, data=data, steps=1, warmup=0, hidden=(3,), output="mse")
    return train(options.pop("adapter", adapter), **{**settings, "show_bar": False, **options})
begun = {where: torch.rand(4, one.shape[-1] + 1) for where, one in shares.items()}
def ascend(moving=None, kept=None):
    return PGD(d, 1).search(adapter, data, shares, begin=begun, moving=moving, kept=kept)
def halves(parts, remainder):
    return {where: Gates(torch.full(parts, 0.5), torch.full(remainder, 0.5)) for where in shares}
def output_of(base):
    registry = d.registry(adapter)
    return al.MaskedModel(adapter, registry, output=al.KL(), base=base)(torch.ones(1, len(registry)), data)
def effects(ablate={"one": "L0.first rank_one 1"}, **options):
    settings = dict(modes=[Deterministic(d)], patterns=None, gaps="whole", show_bar=False)
    return ablation_experiment(adapter, d, data, ablate, **{**settings, **options})
found = []
for line in json.loads(sys.stdin.read()):
    try:
        value = eval(line)
        found.append(["", repr(value)[:200]])
    except Exception as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""

CALLS: dict[str, tuple[str, str]] = {
    # parts and importance functions
    "Part(V * nan, U)": ("InputError", "V of rank-one components holds NaN or infinity"),
    "Part(V, U * inf)": ("InputError", "U of rank-one components holds NaN or infinity"),
    "Part(V[:, :0], U[:0])": ("InputError", "with C from 1; got V [5, 0] and U [0, 4]"),
    "Part(V.double(), U)": ("InputError", "got V torch.float64 on cpu and U torch.float32 on cpu: U.to(V)"),
    "Part(V.int(), U.int())": ("InputError", "float tensors; got torch.int32 on cpu and torch.int32 on cpu"),
    "Part(U, V)": ("InputError", "got V [3, 4] and U [5, 3]"),
    "Part(V.numpy(), U.numpy())": ("InputError", "got ndarray and ndarray: torch.as_tensor(V).float()"),
    "Part(V, U, 'mlp')": ("InputError", "al.spd.importance_function('mlp', components=3, width=5, hidden=(16,))"),
    "Part(V, U, torch.nn.Linear(5, 3))": ("InputError", "or None; got Linear("),
    "Part(V, U, importance_function('mlp', 1, 5, (4,)))": ("InputError", "is [1, 1, 4], and for 3 components"),
    "Part(V, U, importance_function('vector_mlp', 3, 9, (4,)))": ("InputError", "is [3, 9, 4], and for 3 components"),
    "part.codes(np.ones((2, 5)))": ("InputError", "is a tensor [..., 5]; got ndarray"),
    "part.codes(torch.ones(2, 9))": ("InputError", "is a tensor [..., 5]; got [2, 9]"),
    "part.importance(torch.ones(2, 9))": ("InputError", "is a tensor [..., 5]; got [2, 9]"),
    "importance_function('mlp', '3', 5, (4,))": ("InputError", "components is a whole number from 1; got '3'"),
    "importance_function('mlp', 3, -1, (4,))": ("InputError", "width is a whole number from 1; got -1"),
    "importance_function('mlp', True, 5, (4,))": ("InputError", "components is a whole number from 1; got True"),
    "importance_function('shared_mlp', 3, 5, 4)": ("InputError", "such as (16,); got 4"),
    "importance_function(['mlp'], 3, 5, (4,))": ("UnknownNameError", "no importance function ['mlp']: there are mlp"),
    # decompositions
    "Decomposition([part])": ("InputError", '{(0, "attn.q"): al.spd.Part(V, U)}; got list'),
    "Decomposition(None)": ("InputError", "got NoneType"),
    "Decomposition({'attn.q': part})": ("InputError", "such as (0, \"attn.q\"); got 'attn.q'"),
    "Decomposition({('attn.q', 0): part})": ("InputError", "such as (0, \"attn.q\"); got ('attn.q', 0)"),
    "Decomposition({(True, 'attn.q'): part})": ("InputError", "got (True, 'attn.q')"),
    "Decomposition({(0, 'attn.q', 1): part})": ("InputError", "got (0, 'attn.q', 1)"),
    "Decomposition({(0, 'attn.q'): (V, U)})": ("InputError", "al.spd.Part(V, U), by (layer, module); got tuple"),
    "Decomposition({(0, 'attn.q'): part}, sigmoid=['hard'])": ("UnknownNameError", "no sigmoid ['hard']"),
    "Decomposition({(0, 'attn.q'): part}, provenance='mine')": ("InputError", "got 'mine'"),
    # losses and ascents
    "Faithfulness('x')": ("InputError", "a coefficient is a number above 0; got 'x'"),
    "Faithfulness(True)": ("InputError", "a coefficient is a number above 0; got True"),
    "Minimality(p=None)": ("InputError", "p is a power above 0; got p=None"),
    "Minimality(p_end='x')": ("InputError", "p_end='x'"),
    "Minimality(begin='x')": ("InputError", "begin='x'"),
    "Minimality(beta='x')": ("InputError", "beta is a price from 0; got 'x'"),
    "Reconstruction(remainder='no')": ("InputError", "remainder is True, sources of its own, or False"),
    "Ascent(3, 'x')": ("InputError", "step_size is from 0 to 1, and more than 0; got 'x'"),
    "Ascent(3, True)": ("InputError", "step_size is from 0 to 1, and more than 0; got True"),
    "Ascent(3, torch.tensor(0.1))": ("InputError", "got tensor(0.1000)"),
    # modes
    "PGD(d, step_size='x')": ("InputError", "step_size is from 0 to 1"),
    "PGD(d, step_size=None)": ("InputError", "step_size is from 0 to 1"),
    "PGD(d, starts=5)": ("InputError", "one or several of random, ones, zeros, in a list; got 5"),
    "PGD(d, starts=None)": ("InputError", "in a list; got None"),
    "PGD(d, starts=[['random']])": ("InputError", "in a list; got [['random']]"),
    "Stochastic(d).module_gates(adapter, data, 'x')": ("InputError", "sample is a whole number from 0; got 'x'"),
    "Stochastic(d).module_gates(adapter, data, -1)": ("InputError", "sample is a whole number from 0; got -1"),
    "PGD(d, 1).search(adapter, data, ascent=3)": ("InputError", "step_size=0.1, scope='example'); got 3"),
    "PGD(d, 1).search(adapter, data, ascent=Ascent(2, 0.1, 'shared'))": ("InputError", "scope='shared')"),
    "ascend(moving=True)": ("InputError", "moving are tensors by (layer, module); got bool"),
    "ascend(moving={(0, 'first'): begun[0, 'first'] > 0.5})": ("InputError", "there are none of L1.middle"),
    "ascend(moving=begun)": ("InputError", "for each source: that of L0.first is torch.float32; type {at: one.bool()"),
    "ascend(moving={w: one > 0.5 for w, one in shares.items()})": ("InputError", "[examples, 4], with 1"),
    "ascend(moving={w: one[:3] > 0.5 for w, one in begun.items()})": ("InputError", "of 4 examples, or [1, ...]"),
    "ascend(moving={w: one[0] > 0.5 for w, one in begun.items()})": ("InputError", "with 1 for examples or positions"),
    "ascend(moving={w: one[0, :1] > 0.5 for w, one in begun.items()})": ("InputError", "of L0.first are [examples, 4]"),
    "ascend(kept=shares)": ("InputError", "gates by (layer, module), kept={(0, 'first'): Gates(parts, remainder)"),
    "ascend(kept=halves((4, 4), (4, 1)))": ("InputError", "the parts of kept of L0.first are [examples, 3]"),
    "ascend(kept=halves((4, 3), (4, 2)))": ("InputError", "the remainder of kept of L0.first are [examples, 1]"),
    "ascend(kept=halves((4, 3), (1,)))": ("InputError", "the remainder of kept of L0.first are [examples, 1]"),
    "ascend(kept=halves((2, 3), (1, 1)))": ("InputError", "the parts of kept of L0.first are a tensor of 4 examples"),
    "ascend(kept={w: Gates(3 * one, one[:, :1]) for w, one in shares.items()})": ("InputError", "from 0 to 1"),
    "PGD(d, 1).search(adapter, [1])": ("InputError", "the data is a Batch of examples"),
    "PGD(d, 1).search(adapter, data, 5)": ("InputError", "by (layer, module); got int"),
    "PGD(d, 1).search(adapter, data, {w: one.numpy() for w, one in shares.items()})": ("InputError", "got ndarray"),
    # ways to a decomposition
    "svd(net, None, 2)": ("InputError", "expected an adapter, al.adapt(model); got MLP"),
    "svd(adapter, 2, None)": ("InputError", "modules go by their names, modules=['q', 'mlp.in'] or modules='q'; got 2"),
    "svd(adapter, [1], 2)": ("InputError", "got [1]"),
    "svd(adapter, None, 2, layers='0')": ("InputError", "layers are whole numbers, layers=[0, 1] or layers=0; got '0'"),
    "svd(adapter, None, 2, layers=[0.5])": ("InputError", "got [0.5]"),
    "svd(adapter, None, 2, layers=1.5)": ("InputError", "got 1.5"),
    "svd(adapter, None, 2, layers=[True])": ("InputError", "got [True]"),
    "adapter.registry('row', layers='0')": ("InputError", "layers are whole numbers"),
    "adapter.registry('row', modules=5)": ("InputError", "modules go by their names"),
    "learn(adapter=net)": ("InputError", "expected an adapter, al.adapt(model); got MLP"),
    "learn(layers=[0.5])": ("InputError", "layers are whole numbers, layers=[0, 1] or layers=0; got [0.5]"),
    "learn(learning_rate='x')": ("InputError", "learning_rate is above 0; got 'x'"),
    "learn(learning_rate=True)": ("InputError", "learning_rate is above 0; got True"),
    "learn(checkpoint=5)": ("InputError", "a path is that of a file, such as 'training.safetensors'; got 5"),
    "learn(data=data.take(torch.arange(0)))": ("InputError", "a Batch of examples, al.batch(inputs, tokenizer=...)"),
    "learn(data=lambda step: data.take(torch.arange(0)))": ("InputError", "a Batch of examples"),
    "learn(losses=5)": ("InputError", "losses=[al.spd.Reconstruction()]; got losses=5"),
    # files
    "save(net, folder + '/a')": ("InputError", "al.spd.save(decomposition, path) writes a decomposition; got MLP"),
    "save(folder + '/a', d)": ("InputError", "writes a decomposition; got str"),
    "save(d, None)": ("InputError", "such as 'decomposition.safetensors'; got None"),
    "save(Decomposition(dict(d.items()), provenance={'a': V}), folder)": ("InputError", "is to be JSON: Tensor cannot"),
    "load(None)": ("InputError", "such as 'decomposition.safetensors'; got None"),
    "load('')": ("InputError", "such as 'decomposition.safetensors'; got ''"),
    "load(save(d, folder + '/b'), net)": ("InputError", "expected an adapter, al.adapt(model); got MLP"),
    "AblationExperiment.load(None)": ("InputError", "a path is that of a file, such as 'result.safetensors'; got None"),
    "load(folder, skip=5)": ("InputError", "skip= are patterns of module paths, such as ['wte', '*.pre_identity']"),
    "load(folder, skip=[5])": ("InputError", "got [5]"),
    "load_target(None)": ("InputError", "such as 'model_500.pth'; got None"),
    # the experiment
    "effects(reoptimise='no')": ("InputError", "reoptimise is True or False; got 'no'"),
    "effects(positions=torch.tensor(True))": ("InputError", "positions are integers"),
    "effects({'one': Restricted(5, 0)})": ("InputError", "al.spd.Restricted('L1.attn.q rank_one 5', head=2); got 5"),
}  # fmt: skip

ALIKE = [
    ("Decomposition({(np.int64(1), 'q'): part}).fingerprint", "Decomposition({(1, 'q'): part}).fingerprint"),
    ("output_of(Stochastic(d, np.int64(2), seed=np.int64(3)))", "output_of(Stochastic(d, 2, seed=3))"),
    ("output_of(PGD(d, np.int64(2), np.float64(0.25)))", "output_of(PGD(d, 2, 0.25))"),
    ("PGD(d, np.int64(2), np.float64(0.25)).describe()", "PGD(d, 2, 0.25).describe()"),
]
"""Numbers of NumPy, and the same as Python's own."""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """How every call ends: the name of its error, and what that says."""
    lines = [*CALLS, *(line for pair in ALIKE for line in pair)]
    done = subprocess.run(
        [sys.executable, "-c", PREPARED, str(tmp_path_factory.mktemp("files"))],
        input=json.dumps(lines),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(lines, map(tuple, json.loads(done.stdout.splitlines()[-1])), strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_what_is_typed_by_mistake_is_refused_with_what_to_type(call: str, ends: dict[str, tuple[str, str]]) -> None:
    error, message = CALLS[call]
    name, said = ends[call]
    assert name == error, f"{name}: {said}"
    assert re.search(re.escape(message), said), said


@pytest.mark.parametrize(("theirs", "ours"), ALIKE)
def test_numbers_of_numpy_are_those_of_python(theirs: str, ours: str, ends: dict[str, tuple[str, str]]) -> None:
    assert ends[theirs] == ends[ours]
    assert ends[ours][0] == ""
