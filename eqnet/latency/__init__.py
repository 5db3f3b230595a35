"""Latency of any subnet, by a model that is fitted to measured ones. No torch."""
