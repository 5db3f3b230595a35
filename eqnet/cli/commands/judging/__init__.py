"""Commands that judge what was made, by anyone: none needs torch."""
