"""What holds of every output: its value, its precision, its gradient, its description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
import ablationlens.outputs
from ablationlens.data import Batch, batch
from ablationlens.outputs import KL, Custom, Logit, Margin, Output, PatternMass, SquaredError, TapOutput
from tests import models
from tests.conftest import HOSTS, host_of
from tests.outputs.callables import by_logits
from tests.outputs.examples import BATCHES, CLASSES, ROWS, Tokens, made, padded
from tests.outputs.naive import EVERY, NAIVE, scored_rows


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in BATCHES.items()])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_outputs_equal_naive_loops(output: Output, naive: Callable[..., float], data: Batch) -> None:
    logits, clean = made((len(data), data.length or 0, CLASSES)), made((len(data), data.length or 0, CLASSES), 1)
    expected: list[float] = []
    for example in range(len(data)):
        pairs = zip(scored_rows(logits, data, example), scored_rows(clean, data, example), strict=True)
        values = [naive(row, label, other) for (row, label), (other, _) in pairs]
        expected.append(sum(values) / len(values))
    for graph in (False, True):
        with torch.set_grad_enabled(graph):
            scores = output(logits.clone().requires_grad_(graph), data, clean)
        assert scores.shape == (len(data),) and scores.requires_grad == graph
        assert scores.tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_class_models_have_no_positions(output: Output, naive: Callable[..., float]) -> None:
    logits, clean = made((3, CLASSES)), made((3, CLASSES), 1)
    images = batch(torch.rand(3, 2), tokenizer=Tokens(), labels=[0, 6, 2])
    tokens = padded(ROWS, labels=[0, 6, 2])  # a sequence classifier: what is scored is the example
    for data in (images, tokens):
        expected = [naive(logits[i].double(), [0, 6, 2][i], clean[i].double()) for i in range(3)]
        assert output(logits, data, clean).tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_results_are_float32_or_better(output: Output, naive: Callable[..., float], dtype: torch.dtype) -> None:
    data = BATCHES["right"]
    logits, clean = made((3, 5, CLASSES), dtype=dtype), made((3, 5, CLASSES), 1, dtype)
    for graph in (False, True):
        with torch.set_grad_enabled(graph):
            scores = output(logits, data, clean)
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        wide = output(logits.double(), data, clean.double())
        assert torch.allclose(scores.double(), wide, atol=1e-12 if dtype == torch.float64 else 1e-6)


FEW = {  # the ways to select rows, in few logits: a gradient check runs the output twice for each of them
    "dense": padded([[1, 2], [3, 4]]),
    "left": padded([[3, 4, 1], [2, 1]], "left"),
    "packed": padded([[1, 2, 3, 4, 1]], positions=torch.tensor([1, 0, 0, 1, 0]).bool()),
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in FEW.items()])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_gradients(output: Output, naive: Any, data: Batch) -> None:
    shape = (len(data), data.length or 0, 5)
    logits, clean = made(shape, 3, torch.float64).requires_grad_(), made(shape, 4, torch.float64)

    def scores(tensor: Tensor) -> Tensor:
        return output(tensor, data, clean)

    assert torch.autograd.gradcheck(scores, (logits,))


def test_only_kl_needs_the_unmodified_model() -> None:
    assert [type(output).__name__ for output, _ in NAIVE if output.needs_reference] == ["KL", "KL"]
    assert not SquaredError().needs_reference and not Custom(by_logits).needs_reference


class Doubled(Output):
    def __call__(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        return 2 * logits[:, 0]


def test_only_outputs_from_outside_the_library_are_described_by_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = [value for value in vars(ablationlens.outputs).values() if isinstance(value, type)]
    made_here = [*(output for output, _ in NAIVE), SquaredError(), Custom(by_logits), PatternMass(0, 1)]
    assert {*map(type, made_here)} == {kind for kind in exported if issubclass(kind, Output)} - {Output, TapOutput}
    for output in made_here:
        assert "code" not in output.describe()
    assert Margin().describe() == {"output": "Margin"}
    assert Logit(" a").describe() == {"output": "Logit", "token": " a"}
    assert KL().describe() == {"output": "KL", "direction": "clean||ablated"}
    assert set(Doubled().describe()) == {"output", "code"}
    for module in ("ablationlens.outputs_of_mine", "mine.ablationlens.outputs.logits", "__main__"):
        monkeypatch.setattr(Doubled, "__module__", module)
        assert set(Doubled().describe()) == {"output", "code"}


class Strength(TapOutput):
    """How strong the input of an MLP's last matrix is."""

    taps = (al.Tap(1, "mlp.out", "in"),)  # pyright: ignore[reportAssignmentType]

    def read(self, seen: Any, logits: Tensor, batch: Batch) -> Tensor:
        return seen[self.taps[0]].norm(dim=-1).mean(1)


@pytest.mark.parametrize("host", HOSTS)
def test_an_output_of_ones_own_reads_activations_under_ablation(host: str) -> None:
    held = host_of(host, "gpt2")
    registry, inputs = held.adapter.registry("head"), held.inputs(3)
    model = al.MaskedModel(held.adapter, registry, output=Strength())

    def expected(plain: Any) -> Tensor:
        kept: list[Tensor] = []
        module, _ = models.module_of(plain, 1, "mlp.out")
        handle = module.register_forward_hook(lambda _m, given, _o: kept.append(given[0]))
        models.logits_of(plain, inputs)
        handle.remove()
        return kept[0].detach().norm(dim=-1).mean(1)

    loo = al.leave_one_out(model, al.batch(inputs))
    for column, component in enumerate(registry):
        effect = expected(held.reference) - expected(models.edited(held.reference, [component]))
        assert torch.allclose(torch.from_numpy(loo.weights.values[:, column]).float(), effect, atol=2e-5)
    assert float(loo.weights.max()) > 1e-2
    mask = torch.full((3, 8), 0.5, requires_grad=True)
    model(mask, al.batch(inputs)).sum().backward()
    assert mask.grad is not None and bool(mask.grad.abs().max() > 1e-3)
    assert set(model.output.describe()) == {"output", "code"}


@pytest.mark.parametrize(
    ("read", "came"),
    [
        (lambda seen: seen.norm(dim=-1), r"torch.float32 \[3, 7\]"),
        (lambda seen: seen.norm(), r"torch.float32 \[\]"),
        (lambda seen: seen.norm(dim=-1).mean(1)[:1], r"torch.float32 \[1\]"),
        (lambda seen: seen.norm(dim=-1).argmax(1), r"torch.int64 \[3\]"),
        (lambda seen: seen.norm(dim=-1).mean(1).tolist(), "list"),
        (lambda seen: None, "NoneType"),
    ],
)
def test_what_is_read_has_to_be_one_float_for_each_row(
    read: Callable[[Tensor], Any], came: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = host_of("torch", "gpt2")
    monkeypatch.setattr(Strength, "read", lambda self, seen, logits, batch: read(seen[self.taps[0]]))
    model = al.MaskedModel(host.adapter, host.adapter.registry("head"), output=Strength())
    for call in (lambda: model(model.mask(), host.data(3)), lambda: model.sweep(model.mask(), host.data(3))):
        with pytest.raises(al.InputError, match=rf"Strength\.read returns one float for each row, \[3\], not {came}"):
            call()


def test_scores_are_float32_or_better() -> None:
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        seen = {Strength.taps[0]: torch.ones(2, 3, 4, dtype=dtype)}  # pyright: ignore[reportArgumentType]
        scores = Strength().score(torch.zeros(2, 3, 5), batch(torch.ones(2, 3).long()), None, seen)  # pyright: ignore
        assert scores.dtype == wanted


def test_methods_that_have_logits_alone_refuse_it_and_say_why() -> None:
    host = host_of("torch", "gpt2")
    model = al.MaskedModel(host.adapter, host.adapter.registry("head"), output=Strength())
    refused = r"Strength reads L1\.mlp\.out\.in, which logits do not show: .*al\.MaskedModel.*al\.conductance"
    with pytest.raises(al.InputError, match=refused):
        al.conductance(model, host.data(2), steps=2)
    with pytest.raises(al.InputError, match=refused):
        Strength()(torch.zeros(2, 3, 5), host.data(2))


def test_an_output_of_logits_asks_for_no_taps() -> None:
    assert all(output.taps == () for output, _ in NAIVE)
    assert PatternMass(1, 2).taps == (al.Pattern(1),)
