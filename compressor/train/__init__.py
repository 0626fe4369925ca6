"""The one training loop, and what feeds it: augmentation, the teacher's stored answers, inherited weights."""
