"""Tests with real servers, sockets or processes, but not of the whole program."""
