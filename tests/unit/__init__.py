"""Tests of one unit each: no process, no real server; about ten seconds in all."""
