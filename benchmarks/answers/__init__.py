"""Measured answers: a module per question, each with one function that measures and reports."""
