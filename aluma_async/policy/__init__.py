"""Pure decisions: time and chance are arguments."""
