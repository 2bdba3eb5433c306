"""What the methods of captum share here: how captum is imported, and what is noted of a run."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import torch

from ablationlens.data import Batch
from ablationlens.extras import optional
from ablationlens.masked_model import MaskedModel
from ablationlens.packing import Packing
from ablationlens.provenance import packages


def captum_attr() -> Any:
    """The module `captum.attr`.

    Raises:
        MissingExtraError: if captum is not installed.
    """
    return optional("captum.attr")


def run_provenance(model: MaskedModel, data: Batch, packing: Packing, seconds: float) -> dict[str, Any]:
    """What was run, on what, and with what: JSON-able."""
    return {
        **model.describe(),
        "data": {"examples": len(data), "fingerprint": data.fingerprint()},
        "packing": {"draws": packing.draws, "examples": packing.examples},
        "threads": torch.get_num_threads(),
        "packages": {**packages(), "captum": metadata.version("captum")},
        "seconds": round(seconds, 2),
    }
