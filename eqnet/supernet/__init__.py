"""The supernet: capture, calibrate, apply a subnet, extract it, save and load."""
