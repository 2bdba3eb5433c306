"""Diagnostics: what an ablation does to attention, to predictions, and to one kind of data beside another."""
