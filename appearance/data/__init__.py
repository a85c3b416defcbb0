"""Folders of images become batches of pixels."""
