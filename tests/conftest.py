"""Fixtures that every test may use: tiny models on both hosts, and their adapters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

import ablationlens as al
from tests import models

torch.set_num_threads(1)  # tests run side by side, and threads that wait for one another cost more than they bring


@dataclass(frozen=True, eq=False)
class Host:
    """A tiny model in one host: `reference` is the same model in plain PyTorch, never touched."""

    host: str
    name: str
    reference: Any
    adapter: al.Adapter

    def __str__(self) -> str:
        return f"{self.host}-{self.name}"

    @property
    def transformer(self) -> bool:
        return self.name in models.TRANSFORMERS

    def data(self, examples: int = 4, seed: int = 0) -> al.Batch:
        return al.batch(models.inputs_of(self.name, examples, seed))

    def inputs(self, examples: int = 4, seed: int = 0) -> torch.Tensor:
        return models.inputs_of(self.name, examples, seed)

    def fresh(self) -> Any:
        """A new model of this host, for tests that change it."""
        return models.held_by(self.host, models.MODELS[self.name]())

    def kinds(self) -> list[str]:
        return KINDS[self.name]

    def registry(self, kind: str) -> al.Registry:
        return registry_of(self, kind)


HOSTS = ("torch", "transformer_lens", "nnsight")
"""The libraries that can hold a language model."""
ALL_HOSTS = [
    ("torch", "gpt2"),
    ("torch", "llama"),
    ("torch", "llama_biased"),
    ("torch", "convnet"),
    ("torch", "mlp"),
    ("torch", "tied"),
    ("transformer_lens", "gpt2"),
    ("transformer_lens", "llama"),
    ("transformer_lens", "llama_biased"),
    ("nnsight", "gpt2"),
    ("nnsight", "llama"),
    ("nnsight", "llama_biased"),
    ("nnsight", "convnet"),
    ("nnsight", "tied"),
]
IN_LANGUAGE_MODELS = ["head", "row", "row_block", "matrix", "column", "neuron", "svd", "factors"]
KINDS = {
    "gpt2": [*IN_LANGUAGE_MODELS, "projected column", "svd of mlp"],
    "llama": IN_LANGUAGE_MODELS,
    "llama_biased": IN_LANGUAGE_MODELS,
    "convnet": ["filter", "row", "matrix", "column", "svd"],
    "mlp": ["row", "row_block", "matrix", "column", "svd"],
    "tied": ["row", "column", "matrix"],
}
"""Every kind that applies to a model, by the names of `registry_of`."""
HOST_KINDS = [(host, name, kind) for host, name in ALL_HOSTS for kind in KINDS[name]]


@cache
def registry_of(host: Host, kind: str) -> al.Registry:
    """A registry of every component of one kind; a few for rank-one parts."""
    adapter = host.adapter
    match kind:
        case "row_block":
            return adapter.registry("row_block", size=5)
        case "projected column":
            return adapter.registry("column", modules=["q", "k", "v"])
        case "svd":
            return adapter.registry("rank_one", svd=models.RANK)
        case "svd of mlp":
            return adapter.registry("rank_one", svd=models.RANK, modules=["mlp.in", "mlp.out"], layers=[1])
        case "factors":
            names = [(0, "attn.q"), (0, "mlp.in"), (1, "attn.v"), (1, "mlp.out")]
            factors = {name: models.given_factors(host.reference, *name) for name in names}
            return adapter.registry("rank_one", factors=factors)
        case _:
            return adapter.registry(kind)


@cache
def host_of(host: str, name: str) -> Host:
    reference = models.MODELS[name]()
    example = None if name in models.TRANSFORMERS else models.inputs_of(name, 1)
    return Host(host, name, reference, al.adapt(models.held_by(host, reference), example=example))


@pytest.fixture(params=ALL_HOSTS, ids=lambda p: f"{p[0]}-{p[1]}")
def host(request: pytest.FixtureRequest) -> Host:
    """Every model of the tests in every host that can hold it."""
    return host_of(*request.param)


@pytest.fixture(params=HOST_KINDS, ids=lambda p: f"{p[0]}-{p[1]}-{p[2].replace(' ', '_')}")
def host_and_kind(request: pytest.FixtureRequest) -> tuple[Host, str]:
    """Every kind of component of every model in every host."""
    name_of_host, name, kind = request.param
    return host_of(name_of_host, name), kind


@pytest.fixture(params=HOSTS)
def gpt2(request: pytest.FixtureRequest) -> Host:
    """The tiny GPT-2 in each host."""
    return host_of(request.param, "gpt2")


@pytest.fixture
def torch_gpt2() -> Host:
    return host_of("torch", "gpt2")


@pytest.fixture
def small() -> Host:
    """The quickest model to run: a three-layer perceptron."""
    return host_of("torch", "mlp")
