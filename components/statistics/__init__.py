"""Rates with intervals, paired tests, and what per-image outcomes say."""
