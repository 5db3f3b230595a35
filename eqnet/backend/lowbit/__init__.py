"""Readers of low-bit artifacts, with numpy: bit-packed weights, programs of integers alone."""
