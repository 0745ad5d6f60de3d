"""For authors of sinks: sample runs and a check of exactly-once output. Uses the text and runtime rooms."""
