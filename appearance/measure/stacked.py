"""A lazy concatenation or selection of rows, which copies only the rows that are read.

For memory-mapped galleries larger than memory, of which `torch.cat` or an index without junk would copy all.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Stacked:
    """(N, D) rows: the concatenated parts, or of these the rows `chosen`, in that order.

    Args:
        parts: (Ni, D) tensors or Stacked.
        chosen: (N,) int64 row indices. None: all rows.

    Attributes:
        shape, device: as of a tensor; rows are returned on the device of the last part.
        copies: whether reading rows copies them; if not, a slice shares the part's memory.
    """

    def __init__(self, *parts: Tensor | Stacked, chosen: Tensor | None = None):
        total, self.device = sum(map(len, parts)), parts[-1].device
        if chosen is not None and torch.equal(chosen, torch.arange(total, device=chosen.device)):
            chosen = None
        self.parts, self.chosen = parts, chosen
        self.shape = torch.Size((total if chosen is None else len(chosen), parts[0].shape[1]))
        self.copies = chosen is not None or len(parts) > 1 or getattr(parts[0], "copies", False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """(B, D) rows of a slice without a step, or of (B,) indices."""
        if self.chosen is not None:
            rows = self.chosen[rows if isinstance(rows, slice) else rows.to(self.chosen.device)]
        return self._of_slice(rows) if isinstance(rows, slice) else self._of_numbers(rows)

    def _of_slice(self, rows: slice) -> Tensor:
        first, (start, stop, _) = 0, rows.indices(sum(map(len, self.parts)))
        found = []
        for part in self.parts:
            found.append(part[max(0, start - first) : max(0, stop - first)])
            first += len(part)
        found = [rows for rows in found if len(rows)] or found[:1]
        return found[0] if len(found) == 1 else torch.cat([rows.to(self.device) for rows in found])

    def _of_numbers(self, rows: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0][rows.to(self.device)]
        out, first = torch.empty(len(rows), self.shape[1], device=self.device), 0
        for part in self.parts:
            inside = ((rows >= first) & (rows < first + len(part))).nonzero()[:, 0]
            out[inside.to(self.device)] = part[(rows[inside] - first).to(part.device)].to(self.device)
            first += len(part)
        return out
