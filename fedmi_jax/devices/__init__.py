"""How leading axes are run: side by side, one after the other, over devices and processes."""
