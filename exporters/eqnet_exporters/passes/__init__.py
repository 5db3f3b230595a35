"""Rewrites of the neutral QDQ graph, one a file; every exporter lists those it applies, in order.

Each pass is a function that changes a model in place and keeps every integer that the graph
computes (the module says how); `lower` of an exporter works on a copy.
"""
