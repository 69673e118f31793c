"""Nodes of a cluster: ordered for pods that find no room, given back when they have been empty for a while."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Node:
    """One of a pool.

    Attributes:
        ordered: When; it costs from then on.
        ready: When pods run on it.
        pods: Those on it.
        empty: Since when there are none; none while there are.
    """

    ordered: float
    ready: float
    pods: int = 0
    empty: float | None = None


@dataclass
class NodePool:
    """Nodes of one kind.

    Args:
        start: Seconds from an order until pods run.
        idle: Seconds after which an empty node is given back.
        room: Pods on a node.
    """

    start: float
    idle: float
    room: int
    nodes: list[Node] = field(default_factory=list)
    _paid: float = 0.0

    def place(self, now: float) -> Node:
        """A node for one more pod, ordered where none has room."""
        node = next((node for node in self.nodes if node.pods < self.room), None)
        if node is None:
            node = Node(now, now + self.start)
            self.nodes.append(node)
        node.pods += 1
        node.empty = None
        return node

    def leave(self, node: Node, now: float) -> None:
        """A pod ends."""
        node.pods -= 1
        if node.pods == 0:
            node.empty = now

    def lose(self, node: Node, now: float) -> None:
        """It is gone at once, and no longer paid for."""
        self.nodes.remove(node)
        self._paid += now - node.ordered

    def tidy(self, now: float) -> None:
        """Give back what has been empty for long enough."""
        for node in [node for node in self.nodes if node.empty is not None and now - node.empty >= self.idle]:
            self.lose(node, now)

    def hours(self, now: float) -> float:
        """Paid for until now."""
        return (self._paid + sum(now - node.ordered for node in self.nodes)) / 3600
