"""What runs a sink: base classes, outputs, the runner and exactly-once delivery. Uses the text room."""
