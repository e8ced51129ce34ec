"""OpenAI's API: requests, and the documents of responses."""
