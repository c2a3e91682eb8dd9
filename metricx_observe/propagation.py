"""The request's ids on outgoing HTTP requests, under the name by which applications import it."""

from .request.outgoing import Propagate

__all__ = ["Propagate"]
