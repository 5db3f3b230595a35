"""Measured latency as a value: samples of subnets, and the model that predicts others."""
