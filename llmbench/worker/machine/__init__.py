"""What the machine is and does: hardware, software, counters, energy."""
