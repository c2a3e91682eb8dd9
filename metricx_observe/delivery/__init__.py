"""Delivery: nothing lost, never in the way. A queue, an outbox, and a courier for each vendor."""

from .channel import Channel, Described, Importance, Limits, Message, Post
from .delivery import Delivery

__all__ = ["Channel", "Delivery", "Described", "Importance", "Limits", "Message", "Post"]
