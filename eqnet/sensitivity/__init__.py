"""What each place of a network costs when it is quantized: KL by partial forward passes."""
