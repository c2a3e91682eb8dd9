"""What an application calls to send analytics and LLM traces, and the records that are made of its calls."""
