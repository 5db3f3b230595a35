"""Quantize and dequantize: pure maths, elastic quantizers, elastic layers."""
