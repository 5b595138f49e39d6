"""The bottleneck of a user's own step: `llmbench diagnose`."""
