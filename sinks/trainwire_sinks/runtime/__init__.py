"""What runs a sink: its base classes and outputs, the runner, and exactly-once delivery. Uses the text room."""
