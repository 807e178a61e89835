"""The sparse CNN: its layers and operations, the gates on its channels, the images that go in."""
