"""One request or websocket: the two layers of the middleware, its facts, and what a client may say of it."""
