"""Training: the losses of EQ-Net, recipes, the loop, post-training calibration."""
