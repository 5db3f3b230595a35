"""Search: cost models, the accuracy predictor CQAP, genetic search."""
