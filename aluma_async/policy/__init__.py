"""Pure decisions: time and random numbers are arguments."""
