"""Whole models: what each layer gets, in which order, by whom, and what survives a crash."""
