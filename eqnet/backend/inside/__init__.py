"""Looking inside of a network that runs: the neutral graph in parts, and whose tensor is whose."""
