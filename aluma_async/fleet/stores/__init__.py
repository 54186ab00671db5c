"""Stores of a fleet. Each is a leaf: it imports the port and lower layers."""
