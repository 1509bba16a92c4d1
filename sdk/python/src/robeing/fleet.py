"""A client of a fleet."""

from __future__ import annotations


class Fleet:
    """A client of a fleet."""

    @classmethod
    def connect(cls) -> Fleet:
        """Connects."""
        raise NotImplementedError

    async def close(self) -> None:
        """Closes."""
