"""Contracts: quantization forms, hardware profiles, subnets, manifests, reports, errors."""
