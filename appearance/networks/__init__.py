"""Pixels become vectors: the smaller networks, and files of trained ones."""
