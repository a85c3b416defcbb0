"""Vectors become numbers: rank-1, mAP, a tracker's threshold."""
