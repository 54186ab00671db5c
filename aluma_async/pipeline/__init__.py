"""Moves tasks from a ``TaskSource`` to a ``Destination``; knows neither Aluma nor any destination."""
