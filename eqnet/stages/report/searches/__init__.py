"""Plots of one search: its front, what was chosen, and how the search came there."""
