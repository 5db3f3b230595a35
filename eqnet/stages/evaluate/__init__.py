"""The accuracy of one uniform subnet in PyTorch."""
