"""Render synthetic people from seeds: the sample dataset and larger training sets."""
