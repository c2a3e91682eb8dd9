"""The copilot: the models that it can ask, and the query that it runs for them."""
