"""Loops, passes and kinds of step: how a step is timed, whole and in its parts."""
