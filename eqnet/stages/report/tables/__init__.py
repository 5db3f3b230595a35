"""The page's tables: what stands in every cell, and by what it sorts."""
