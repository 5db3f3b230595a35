"""A model of a network's latency on this machine, measured in the profile's runtime."""

from eqnet.stages.profile_device.run import profile_device, write_graphs

__all__ = ["profile_device", "write_graphs"]
