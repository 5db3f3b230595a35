"""Many genomes at once: bits, features and costs as arrays instead of one subnet after another."""
