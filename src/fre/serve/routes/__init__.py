"""What the service answers: thin, the work is done elsewhere."""
