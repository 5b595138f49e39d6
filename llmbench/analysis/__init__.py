"""From records to answers: pure functions."""
