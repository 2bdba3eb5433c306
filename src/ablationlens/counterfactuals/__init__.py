"""Outputs under many masks, in memory or on disk."""

from ablationlens.counterfactuals.record import Counterfactuals as Counterfactuals
from ablationlens.counterfactuals.record import record as record
from ablationlens.counterfactuals.store import Store as Store
