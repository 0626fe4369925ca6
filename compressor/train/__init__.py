"""The training loop, and its inputs: augmentation, stored teacher outputs, inherited weights."""
