"""Evaluation of feature vectors: rank-1, mAP, a tracker's threshold."""
