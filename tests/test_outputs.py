"""Outputs against naive loops and torch.nn.functional; what they must not depend on; what they refuse."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ablationlens.data import NO_LABEL, Batch, batch
from ablationlens.errors import InputError
from ablationlens.outputs import (
    KL,
    CrossEntropy,
    Custom,
    Logit,
    LogitDifference,
    Margin,
    Output,
    SquaredError,
    as_output,
)

CLASSES = 7
INF = math.inf


class Tokens:
    """The least that a tokenizer must do: one token for each letter; pads on a side that can be set."""

    pad_token_id = 0

    def __init__(self, side: str = "right") -> None:
        self.padding_side = side

    def __call__(self, texts: str | list[str], add_special_tokens: bool = True) -> dict[str, Any]:
        ids = [[ord(letter) - ord("a") for letter in text] for text in ([texts] if isinstance(texts, str) else texts)]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def scored_rows(logits: Tensor, data: Batch, example: int) -> list[tuple[Tensor, int]]:
    """(logits of one scored position, its label) of one example, the slow way."""
    assert data.scored is not None and data.labels is not None
    rows: list[tuple[Tensor, int]] = []
    for position in range(logits.shape[1]):
        if data.scored[example, position]:
            label = data.labels[example] if data.labels.ndim == 1 else data.labels[example, position]
            rows.append((logits[example, position].double(), int(label)))
    return rows


def naive_margin(row: Tensor, label: int, _: Tensor) -> float:
    return float(row[label]) - max(float(row[j]) for j in range(len(row)) if j != label)


def naive_loss(row: Tensor, label: int, _: Tensor) -> float:
    return float(functional.cross_entropy(row[None], torch.tensor([label])))


def naive_kl(row: Tensor, _: int, clean: Tensor) -> float:
    return float(functional.kl_div(row.log_softmax(0), clean.softmax(0), reduction="sum"))


def naive_reverse_kl(row: Tensor, _: int, clean: Tensor) -> float:
    return float(functional.kl_div(clean.log_softmax(0), row.softmax(0), reduction="sum"))


NAIVE: list[tuple[Output, Callable[[Tensor, int, Tensor], float]]] = [
    (Margin(), naive_margin),
    (CrossEntropy(), naive_loss),
    (Logit(3), lambda row, label, _: float(row[3])),
    (Logit("c"), lambda row, label, _: float(row[2])),
    (Logit("label"), lambda row, label, _: float(row[label])),
    (LogitDifference("b", 4), lambda row, label, _: float(row[1] - row[4])),
    (LogitDifference("label", 0), lambda row, label, _: float(row[label] - row[0])),
    (KL(), naive_kl),
    (KL("ablated||clean"), naive_reverse_kl),
]
EVERY = [pytest.param(output, naive, id=str(output)) for output, naive in NAIVE]


def made(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def padded(rows: list[list[int]], side: str = "right", **options: Any) -> Batch:
    return batch(rows, tokenizer=Tokens(side), **options)


ROWS = [[1, 2, 3, 4, 5], [6, 5, 4], [3, 2]]
BATCHES = {
    "dense": padded([[1, 2, 3, 4], [6, 5, 4, 3]]),
    "right": padded(ROWS),
    "left": padded(ROWS, "left"),
    "few": padded(ROWS, positions=0),
    "sparse": padded([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]], positions=torch.tensor([1, 0, 0, 0, 1, 0]).bool()),
    "last": padded(ROWS, labels=[1, 2, 3]),
    "full": padded(ROWS, labels=[[1, -100, 3, 2, 1], [1, 2, 3, -100, 0], [-100, 6, -100, 1, 1]]),
}


@pytest.mark.parametrize("graph", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in BATCHES.items()])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_outputs_equal_naive_loops(output: Output, naive: Callable[..., float], data: Batch, graph: bool) -> None:
    logits, clean = made((len(data), data.length or 0, CLASSES)), made((len(data), data.length or 0, CLASSES), 1)
    with torch.set_grad_enabled(graph):
        scores = output(logits.clone().requires_grad_(graph), data, clean)
    assert scores.shape == (len(data),) and scores.requires_grad == graph
    for example, score in enumerate(scores.tolist()):
        pairs = zip(scored_rows(logits, data, example), scored_rows(clean, data, example), strict=True)
        expected = [naive(row, label, other) for (row, label), (other, _) in pairs]
        assert score == pytest.approx(sum(expected) / len(expected), abs=2e-6)


@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_class_models_have_no_positions(output: Output, naive: Callable[..., float]) -> None:
    logits, clean = made((3, CLASSES)), made((3, CLASSES), 1)
    images = batch(torch.rand(3, 2), tokenizer=Tokens(), labels=[0, 6, 2])
    tokens = padded(ROWS, labels=[0, 6, 2])  # a sequence classifier: what is scored is the example
    for data in (images, tokens):
        expected = [naive(logits[i].double(), [0, 6, 2][i], clean[i].double()) for i in range(3)]
        assert output(logits, data, clean).tolist() == pytest.approx(expected, abs=2e-6)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    rows = st.lists(st.integers(1, CLASSES - 1), min_size=2, max_size=6)
    return draw(st.lists(rows, min_size=1, max_size=4)), draw(st.integers(0, 999))


def laid_out(values: list[Tensor], data: Batch, filler: float) -> Tensor:
    """Logits of each example at its real tokens, and something else at the padding."""
    assert data.attended is not None
    logits = torch.full((*data.attended.shape, CLASSES), filler)
    for example, value in enumerate(values):
        logits[example, data.attended[example]] = value
    return logits


@settings(deadline=None, max_examples=25)
@given(case=cases(), filler=st.sampled_from([0.0, 50.0, INF, math.nan]), graph=st.booleans())
def test_padding_side_and_the_other_rows_change_nothing(
    case: tuple[list[list[int]], int], filler: float, graph: bool
) -> None:
    rows, seed = case
    values = [made((len(row), CLASSES), seed + i) for i, row in enumerate(rows)]
    clean = [made((len(row), CLASSES), seed + 100 + i) for i, row in enumerate(rows)]
    alone = [padded([row]) for row in rows]
    with torch.set_grad_enabled(graph):
        for output, _ in NAIVE:
            expected = [output(v[None], data, c[None]).item() for v, data, c in zip(values, alone, clean, strict=True)]
            for side in ("right", "left"):
                data = padded(rows, side)
                logits = laid_out(values, data, filler).requires_grad_(graph)
                scores = output(logits, data, laid_out(clean, data, filler))
                assert scores.tolist() == pytest.approx(expected, abs=2e-6)
                if graph:
                    scores.sum().backward()
                    assert data.attended is not None and logits.grad is not None
                    assert logits.grad.isfinite().all() and not logits.grad[~data.attended].any()


@settings(deadline=None, max_examples=50)
@given(case=cases(), constant=st.floats(-20, 20))
def test_coar_requirement_11_a_margin_ignores_a_constant_and_its_sign_is_accuracy(
    case: tuple[list[list[int]], int], constant: float
) -> None:
    rows, seed = case
    data = padded([row[:2] for row in rows])  # one scored position each
    logits = made((len(rows), 2, CLASSES), seed)
    margins = Margin()(logits, data)
    assert torch.allclose(margins, Margin()(logits + constant, data), atol=1e-4)
    right = logits[:, 0].argmax(-1) == torch.tensor([row[1] for row in rows])
    assert torch.equal(margins > 0, right)


def test_a_tie_for_the_label_is_a_margin_of_zero() -> None:
    assert Margin()(torch.tensor([[1.0, 3.0, 3.0]]), batch(torch.rand(1, 2), labels=[2])).tolist() == [0]


@pytest.mark.parametrize("data", [pytest.param(BATCHES[name], id=name) for name in ("dense", "right", "sparse")])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_logits_are_unchanged_whatever_their_layout(output: Output, naive: Any, mode: Any, data: Batch) -> None:
    shape = (len(data), data.length or 0, CLASSES)
    with mode():
        plain = made(shape)
        plain[0, 0] = torch.tensor([INF, -INF, 0.0, -0.0, math.nan, 1.0, 2.0])  # must come back bit for bit
        narrow = made((*shape[:2], 9))[..., :CLASSES].copy_(plain)
        expanded = plain[:1].expand(shape)
        for logits in (plain, plain.transpose(1, 2).contiguous().transpose(1, 2), narrow, expanded):
            before, version = logits.clone().view(torch.int32), None if logits.is_inference() else logits._version
            scores = output(logits, data, made(shape))
            assert torch.equal(logits.view(torch.int32), before)
            assert logits.is_inference() or logits._version == version
            assert torch.equal(scores.isnan(), output(before.view(torch.float32), data, made(shape)).isnan())
            finite = ~scores.isnan()
            assert torch.equal(scores[finite], output(logits.contiguous(), data, made(shape))[finite])


def test_logits_from_inference_mode_can_be_scored_outside_it() -> None:
    with torch.inference_mode():
        logits = made((1, CLASSES))
    data = batch(torch.rand(1, 2), labels=[1])
    with torch.no_grad():
        assert Margin()(logits, data).item() == pytest.approx(naive_margin(logits[0], 1, logits[0]), abs=1e-6)


def test_a_margin_of_a_graphs_logits_leaves_the_graph_usable() -> None:
    logits = made((3, CLASSES)).requires_grad_().exp()  # exp keeps its output for the backward pass
    with torch.no_grad():
        Margin()(logits, batch(torch.rand(3, 2), labels=[0, 1, 2]))
    logits.sum().backward()  # would raise if a write had been noticed


def test_an_error_during_the_margin_leaves_the_logits_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    logits, data = made((2, CLASSES)), batch(torch.rand(2, 2), labels=[0, 1])
    before = logits.clone()
    monkeypatch.setattr(Tensor, "amax", stop)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        Margin()(logits, data)
    assert torch.equal(logits, before)


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


@pytest.mark.parametrize("data", [pytest.param(BATCHES[name], id=name) for name in ("dense", "left", "sparse")])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_gradients(output: Output, naive: Any, data: Batch) -> None:
    shape = (len(data), data.length or 0, CLASSES)
    logits, clean = made(shape, 3, torch.float64).requires_grad_(), made(shape, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda tensor: output(tensor, data, clean), (logits,))


def test_kl_of_equal_logits_is_zero_and_ruled_out_entries_count_for_nothing() -> None:
    data, logits = BATCHES["right"], made((3, 5, CLASSES)) * 20
    for direction in ("clean||ablated", "ablated||clean"):
        assert KL(direction)(logits, data, logits.clone()).abs().max() < 1e-7
    clean = made((3, 5, CLASSES), 1)
    ruled_out = torch.full((3, 5, 2), -INF)
    wide = torch.cat([logits, ruled_out], -1).requires_grad_()
    scores = KL()(wide, data, torch.cat([clean, ruled_out], -1))
    assert torch.allclose(scores, KL()(logits, data, clean), atol=1e-6)
    scores.sum().backward()
    assert wide.grad is not None and wide.grad.isfinite().all()
    # What the clean model thinks possible and the ablated one rules out is an infinite loss.
    assert KL()(torch.tensor([[0.0, -INF]]), batch(torch.rand(1, 2)), torch.tensor([[0.0, 0.0]])).item() == INF


def test_nan_at_a_scored_position_is_not_hidden() -> None:
    data, logits = BATCHES["right"], made((3, 5, CLASSES))
    logits[1, 0] = math.nan
    for output, _ in NAIVE:
        assert output(logits, data, made((3, 5, CLASSES), 1)).isnan().tolist() == [False, True, False]


# --- squared error --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_squared_error_of_inputs_without_positions(shape: tuple[int, ...]) -> None:
    values, targets = made(shape), made(shape, 1)
    data = batch(torch.rand(2, 9), labels=targets)
    expected = [float(functional.mse_loss(values[i], targets[i])) for i in range(2)]
    assert SquaredError()(values, data).tolist() == pytest.approx(expected, abs=1e-6)
    assert SquaredError()(values.unsqueeze(-1), data).tolist() == pytest.approx(expected, abs=1e-6)
    assert SquaredError()(values.half(), data).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_squared_error_is_averaged_over_scored_positions(shape: tuple[int, ...]) -> None:
    values, targets = made(shape), made(shape, 1)
    values[1, 2:] = targets[1, 2:] = math.nan
    values.requires_grad_()
    data = batch([[1, 2, 3], [4, 5, 0]], attention_mask=[[1, 1, 1], [1, 1, 0]], labels=targets)
    scores = SquaredError()(values, data)
    expected = [functional.mse_loss(values[i, :n], targets[i, :n]).item() for i, n in enumerate((3, 2))]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)
    scores.sum().backward()
    assert values.grad is not None and values.grad.isfinite().all()


# --- callables and descriptions -------------------------------------------------------------------


def by_logits(logits: Tensor) -> Tensor:
    return logits[:, -1, 0]


def by_both(logits: Tensor, data: Batch) -> Tensor:
    return logits[:, -1, 0] + len(data)


def with_option(logits: Tensor, scale: float = 2.0) -> Tensor:
    return logits[:, -1, 0] * scale


def optional_batch(logits: Tensor, batch: Batch | None = None) -> Tensor:
    return logits[:, -1, 0] + (0 if batch is None else len(batch))


class Callable2:
    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, *arguments: Any) -> Tensor:
        assert len(arguments) == 2
        return arguments[0][:, -1, self.token]


def test_callables_get_the_logits_and_the_batch_if_they_take_it() -> None:
    data, logits = BATCHES["dense"], made((2, 4, CLASSES))
    last = logits[:, -1, 0]
    for function, expected in [
        (by_logits, last),
        (by_both, last + 2),
        (with_option, last * 2),
        (optional_batch, last + 2),
        (functools.partial(with_option, scale=3), last * 3),
        (Callable2(0), last),
    ]:
        assert torch.equal(as_output(function)(logits, data), expected)
    assert as_output(by_logits)(logits.half(), data).dtype == torch.float32
    margin = Margin()
    assert as_output(margin) is margin


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits: logits, r"\[2\], but returned torch.float32 \[2, 4, 7\]"),
        (lambda logits: logits.mean(), r"but returned torch.float32 \[\]"),
        (lambda logits: logits[:, 0].argmax(-1), "returned torch.int64"),
        (lambda logits: 1.0, "returned float"),
    ],
)
def test_callables_must_return_one_float_for_each_row(function: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_output(function)(made((2, 4, CLASSES)), BATCHES["dense"])


def test_what_is_not_an_output_is_refused() -> None:
    for wrong, message in [
        (Margin, r"Margin\(\)"),
        ("margin", "not a str"),
        (lambda: 0, "takes no argument"),
        (lambda logits, batch, reference: logits, "needs more"),
        (lambda logits, *, reference: logits, "needs more"),
    ]:
        with pytest.raises(InputError, match=message):
            as_output(wrong)


class Doubled(Output):
    def __call__(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        return 2 * logits[:, 0]


class Tripled(Output):
    def __call__(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        return 3 * logits[:, 0]


def recursive(logits: Tensor) -> Tensor:
    return recursive(logits[0]) if logits.ndim > 1 else logits


def capturing(value: Any) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[:, value]


def test_descriptions_are_jsonable_and_tell_outputs_apart() -> None:
    assert Margin().describe() == {"output": "Margin"}
    assert Logit(" a").describe() == {"output": "Logit", "token": " a"}
    assert KL().describe() == {"output": "KL", "direction": "clean||ablated"}
    different: list[Output | Callable[..., Tensor]] = [
        *(output for output, _ in NAIVE),
        SquaredError(),
        Doubled(),
        Tripled(),
        *(lambda logits: logits[:, 0], lambda logits: logits[:, 1], lambda logits: logits.sum(0)),
        *(
            capturing(value)
            for value in (0, 1, torch.tensor(1), torch.tensor(2), [1], {"a": 1}, None, torch.half, math)
        ),
        *(capturing(function) for function in (by_logits, by_both, torch.sum)),
        *(Callable2(0), Callable2(1), torch.sum, torch.mean, recursive),
        *(functools.partial(with_option, scale=scale) for scale in (1, 2)),
        with_option,
        SimpleNamespace(f=Callable2(0)).f.__call__,
        lambda logits: logits if str(logits) in {"a", "b", "c"} else -logits,
    ]
    described = [json.dumps(as_output(output).describe(), sort_keys=True) for output in different]
    assert len(set(described)) == len(different)
    assert json.dumps(as_output(capturing(1)).describe(), sort_keys=True) in described
    assert " at 0x" not in "".join(described)


def test_a_description_is_the_same_in_another_process() -> None:
    code = (
        "import json; from ablationlens.outputs import as_output\n"
        "f = lambda logits: logits if str(logits) in {'a', 'b', 'c', 'd'} else [x for x in logits]\n"
        "described = json.dumps(as_output(f).describe()); assert 'code' in described"
    )
    here: dict[str, Any] = {"__name__": "__main__"}
    exec(code, here)
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}  # sets have another order there
    command = [sys.executable, "-c", code + "\nprint(described)"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert there.strip() == here["described"]


def test_only_kl_needs_the_unmodified_model() -> None:
    assert [type(output).__name__ for output, _ in NAIVE if output.needs_reference] == ["KL", "KL"]
    assert not SquaredError().needs_reference and not Custom(by_logits).needs_reference


# --- errors ---------------------------------------------------------------------------------------

IMAGES = torch.rand(2, 3)
DENSE = BATCHES["dense"]  # [2, 4]


@pytest.mark.parametrize(
    ("output", "shape", "data", "message"),
    [
        (
            Margin(),
            (2, 4, 3),
            DENSE,
            "example 0, position 1 has label 3, but the logits have 3 entries: labels are 0 to 2",
        ),
        (CrossEntropy(), (2, 3), batch(IMAGES, labels=[0, 3]), "example 1 has label 3, .* 0 to 2"),
        (Margin(), (2, 3), batch(IMAGES), r"Margin needs integer labels and the batch has none: al.batch\(.*labels="),
        (Logit("label"), (2, 3), batch(IMAGES), "Logit needs integer labels"),
        (LogitDifference(0, "label"), (2, 3), batch(IMAGES), "LogitDifference needs integer labels"),
        (CrossEntropy(), (2, 3), batch(IMAGES, labels=[0.5, 1.5]), "has float targets"),
        (Margin(), (2, 4, 7), padded([[1, 2, 3, 4]] * 2, positions=[0, -1]), "example 0, position 3 has none"),
        (Margin(), (2, 7), batch(IMAGES, labels=[NO_LABEL, 1]), "example 0 has none"),
        (Logit(0), (2, 1, 7), batch([[1], [2]]), "example 0 has no scored position"),
        (
            Margin(),
            (2, 2, 7),
            batch([[1, 2], [3, 4]], labels=[[1, 2], [-100, -100]]),
            "example 1 has no scored position",
        ),
        (Logit(0), (2,), DENSE, r"logits are \[batch, position, class\] or \[batch, class\]"),
        (Logit(0), (2, 4, 7, 1), DENSE, r"logits are \[batch, position, class\] or \[batch, class\]"),
        (Logit(0), (3, 4, 7), DENSE, "3 rows of logits for 2 examples"),
        (Logit(0), (2, 5, 7), DENSE, "the logits have 5 positions, the inputs 4"),
        (Margin(), (2, 7), DENSE, r"Margin: the logits are \[2, 7\], so labels are \[2\], not \[2, 4\]"),
        (Margin(), (2, 4, 7), batch(IMAGES, labels=[0, 1]), r"so labels are \[2, 4\], not \[2\]"),
        (Margin(), (2, 1), batch(IMAGES, labels=[0, 0]), "at least two classes"),
        (Logit(7), (2, 7), DENSE, "there is no logit 7: the logits have 7 entries, 0 to 6"),
        (Logit("ab"), (2, 7), DENSE, r"'ab' is 2 tokens, \['a', 'b'\]"),
        (Logit("a"), (2, 7), batch(IMAGES), "needs a tokenizer"),
        (KL(), (2, 7), DENSE, "KL compares with the unmodified model"),
        (SquaredError(), (2, 7), DENSE, "needs float targets"),
        (SquaredError(), (2, 7), batch(IMAGES), "needs float targets"),
        (
            SquaredError(),
            (2, 7),
            batch(IMAGES, labels=torch.rand(2, 6)),
            r"shape \[2, 6\], the model's output \[2, 7\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(output: Output, shape: tuple[int, ...], data: Batch, message: str) -> None:
    with pytest.raises(InputError, match=message):
        output(made(shape), data)


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"the reference has shape \[2, 6\], the logits \[2, 7\]"):
        KL()(made((2, 7)), DENSE, made((2, 6)))


@pytest.mark.parametrize("make", [lambda: Logit(-1), lambda: Logit(True), lambda: LogitDifference(0, -2)])
def test_tokens_are_checked_when_an_output_is_made(make: Callable[[], Output]) -> None:
    with pytest.raises(InputError, match="a token is an index from 0"):
        make()


def test_a_direction_is_checked_when_a_kl_is_made() -> None:
    with pytest.raises(InputError, match=r"'clean\|\|ablated' or 'ablated\|\|clean', not 'forward'"):
        KL("forward")


def test_logits_by_position_of_inputs_without_positions_are_all_scored_or_as_labelled() -> None:
    features, logits = torch.rand(2, 3, 5), made((2, 3, CLASSES))
    assert torch.allclose(Logit(1)(logits, batch(features)), logits[..., 1].mean(1))
    data = batch(features, labels=[[1, -100, 2], [-100, -100, 3]])
    picked = [logits[0, [0, 2], [1, 2]].mean().item(), logits[1, 2, 3].item()]
    assert Logit("label")(logits, data).tolist() == pytest.approx(picked)
