"""What may be chosen in a network under a hardware profile; needs no torch."""
