"""eqnet: one trained network to every piece of hardware (EQ-Net, arXiv 2308.07650)."""

__version__ = "0.1.0"
