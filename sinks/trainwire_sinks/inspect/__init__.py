"""A run at a glance: overviews, ranks, progress, comparisons. Uses the text and runtime rooms."""
