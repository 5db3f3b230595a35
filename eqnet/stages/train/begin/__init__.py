"""What a supernet begins as: a network, its weights, and images as it wants them."""
