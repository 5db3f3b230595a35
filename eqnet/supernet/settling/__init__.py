"""How a subnet is brought into force: statistics of its own, or corrections of those it keeps."""
