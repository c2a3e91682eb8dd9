"""The situations, by what they are about. They use the public API only, so that they run on any checkout."""
