"""Batches become weights: recipes, losses, optimizer, and how a run goes on."""
