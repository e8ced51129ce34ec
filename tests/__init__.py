"""The tests: a sentence and a table each."""
