"""The Python SDK of Robeing: run tasks of a fleet, and submit them."""

from robeing._codec import Text
from robeing.app import App
from robeing.context import Context, Fence, current

__all__ = ["App", "Context", "Fence", "Text", "current"]
