"""Pictures and their classes: generated digits, MNIST and its kin from files."""
