"""Plots of artifacts and trainings, and the picture that compares artifacts."""
