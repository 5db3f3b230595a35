"""Post-training: equalization of channels, and reconstruction of roundings."""
