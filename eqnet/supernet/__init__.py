"""Shared weights of all subnets: calibration, correction, extraction, checkpoint, session."""
