"""What users pass to the bus, as the values of events: numbers, images, sounds, tables. Uses the protocol only."""
