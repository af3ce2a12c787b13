"""A report as a page and as plots."""
