"""Numbers become pictures and pages."""
