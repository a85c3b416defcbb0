"""Seeds become pictures of people: the sample dataset, drawn on the spot."""
