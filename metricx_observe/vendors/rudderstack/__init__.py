"""RudderStack: its own SDK makes the shape of each message; ours sends."""
