"""Names and default widths of the network's layers."""

from __future__ import annotations

CONV_LAYERS = ("conv1", "conv2", "conv3")
"""The layers a circuit has channels in."""
LAYERS = (*CONV_LAYERS, "fc")
CHANNELS = (32, 64, 128)
