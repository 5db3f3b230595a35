"""From a float classifier to an elastic graph: its code runs once, under torch.fx."""
