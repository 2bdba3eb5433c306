"""Diagnostics: what an ablation does to attention, to predictions, and to one kind of data beside another."""

from ablationlens.diagnostics.domains import Domains as Domains
from ablationlens.diagnostics.domains import domains as domains
from ablationlens.diagnostics.drift import drift as drift
from ablationlens.diagnostics.drift_result import Drift as Drift
from ablationlens.diagnostics.patterns import attention_patterns as attention_patterns
from ablationlens.diagnostics.patterns import attention_summary as attention_summary
from ablationlens.diagnostics.stability import Stability as Stability
from ablationlens.diagnostics.stability import stability as stability
from ablationlens.diagnostics.table import ablation_table as ablation_table
from ablationlens.diagnostics.table_result import AblationTable as AblationTable
