"""What a search takes a subnet's accuracy to be: predicted, summed or measured."""
