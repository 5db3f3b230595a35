"""What becomes of a Pareto front: measuring its points, and choosing one of them."""
